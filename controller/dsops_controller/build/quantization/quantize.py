"""Quantizes a float TFLite model after training, with ai-edge-quantizer and no TensorFlow.

Each mode's failures that the quantizer does not notice are caught here: a file that did not change, an output that is
constant, names that were lost. What it cannot take is rewritten first, where an equal form exists.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ai_edge_quantizer import quantizer

from dsops.errors import InvalidInput, InvalidModel, UnsupportedModel
from dsops_controller.build.conversion.tflite_writer import DAMAGE
from dsops_controller.build.data import DataSet, check_inputs
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.progress import Progress, silent
from dsops_controller.build.quantization.checks import (
    check_frames_of,
    compare_answers,
    float_operators,
    require_change,
    require_float,
    require_same_tensors,
    require_varied,
)
from dsops_controller.build.quantization.graph import Graph, Operator, tally
from dsops_controller.build.quantization.modes import OperatorRule, QuantMode, resolve_rules, tool_recipe
from dsops_controller.build.quantization.ranges import Ranges, constant_tensors, matmul_ranges, measure_ranges
from dsops_controller.build.quantization.rewrite_buffers import inline_buffers
from dsops_controller.build.quantization.rewrite_constants import rewrite_constants
from dsops_controller.build.quantization.rewrite_folding import fold_constants
from dsops_controller.build.quantization.rewrite_matmul import rewrite_matmuls
from dsops_controller.build.quantization.rewrite_names import rewrite_names
from dsops_controller.build.quiet import quiet

__all__ = ["OperatorRule", "QuantMode", "Quantized", "quantize"]

CALIBRATION = "the calibration data"
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What the quantizer raises for a graph that it cannot take; it has no errors of its own."""
_LISTED = 5
"""How many names a note lists."""


@dataclass(frozen=True)
class Quantized:
    """A model, and what a person should know of it: operators that stayed float, scores that became equal."""

    data: bytes
    notes: tuple[str, ...] = ()


def quantize(
    float_model: bytes,
    mode: QuantMode,
    calibration: DataSet | None = None,
    rules: Sequence[OperatorRule] = (),
    progress: Progress = silent,
) -> Quantized:
    """Return the quantized model. Names, order and shapes of inputs and outputs stay; equal arguments give equal bytes.

    Args:
        float_model: A float32 TFLite model with one signature, as :func:`read_model` gives it.
        mode: How numbers are stored and computed.
        calibration: Typical frames; the modes (and rules) with integer activations need them.
        rules: Exceptions for some operators.
        progress: Told of the steps, and of each calibration frame.

    Raises:
        InvalidInput: The calibration data is missing, constant, of the wrong dtype or shape, or holds NaN; or a rule
            matches nothing.
        InvalidModel: The model is quantized already, nothing in it can be, or it cannot be run.
        UnsupportedModel: The quantizer refuses the graph; the operator is named.
        AccuracyGateFailed: An output of the result is the same whatever it is shown, or all zero.
    """
    original = LitertModel(float_model)
    if calibration is not None:
        check_inputs(calibration.inputs, original.inputs, CALIBRATION)
    if mode == QuantMode.FLOAT32 and not rules:
        return Quantized(float_model)
    source = _prepared(float_model)
    graph = Graph(source)
    modes = _placed(graph, resolve_rules(Graph(float_model), rules))
    ranges = _ranges(source, {mode, *modes.values()}, calibration, progress)
    progress.step("quantize")
    data = inline_buffers(_quantize(source, mode, modes, ranges))
    require_change(graph, Graph(data), mode)
    quantized = _loaded(data, mode)
    require_same_tensors(original, quantized)
    answers = compare_answers(original, quantized, Graph(data), check_frames_of(original, calibration))
    return Quantized(data, (*_float_notes(Graph(data), mode), *_range_notes(ranges), *answers))


def _prepared(float_model: bytes) -> bytes:
    """Return an equal model that the quantizer can take.

    Raises:
        InvalidModel: It is quantized already, or contradicts itself.
    """
    try:
        require_float(Graph(float_model))
        return rewrite_constants(rewrite_matmuls(fold_constants(rewrite_names(inline_buffers(float_model)))))
    except DAMAGE as error:
        raise InvalidModel("the TFLite model is damaged", why=f"{type(error).__name__} while reading it") from error


def _placed(graph: Graph, modes: dict[Operator, QuantMode]) -> dict[Operator, QuantMode]:
    """Return the modes by the operators of the prepared model, which write the tensors that the given ones write."""
    by_outputs = {operator.outputs: mode for operator, mode in modes.items()}
    return {operator: by_outputs[operator.outputs] for operator in graph.operators if operator.outputs in by_outputs}


def _ranges(source: bytes, modes: set[QuantMode], calibration: DataSet | None, progress: Progress) -> Ranges | None:
    static = sorted(mode for mode in modes if mode.is_static)
    if not static:
        return None
    if calibration is None:
        raise InvalidInput(
            f"quantization to {static[0]} needs calibration data", why="the ranges of activations are measured on it"
        )
    require_varied(calibration)
    progress.step("calibrate", len(calibration))
    return measure_ranges(source, calibration, progress) | matmul_ranges(source)


def _quantize(source: bytes, mode: QuantMode, modes: dict[Operator, QuantMode], ranges: Ranges | None) -> bytes:
    graph = Graph(source)
    try:
        return _run_tool(source, mode, modes, ranges)
    except _REFUSALS as error:
        kind = next(_culprits(graph, source, mode, modes, ranges), "")
        raise UnsupportedModel(
            f"the model cannot be quantized to {mode}" + (f" because of its operator {kind}" if kind else ""),
            why=f"{type(error).__name__}: {str(error).split(chr(10), 1)[0]}",
            hint=f"keep {kind or 'some operators'} float by a rule for it, or choose another mode",
        ) from error


def _culprits(
    graph: Graph, source: bytes, mode: QuantMode, modes: dict[Operator, QuantMode], ranges: Ranges | None
) -> Iterator[str]:
    """Find the kinds of operators without which the quantizer takes the graph."""
    for kind in sorted({operator.name for operator in graph.operators}):
        exempt = {operator: QuantMode.FLOAT32 for operator in graph.operators if operator.name == kind}
        try:
            _run_tool(source, mode, modes | exempt, ranges)
        except _REFUSALS:
            continue
        yield kind


def _run_tool(source: bytes, mode: QuantMode, modes: dict[Operator, QuantMode], ranges: Ranges | None) -> bytes:
    recipe = tool_recipe(Graph(source), mode, modes)
    with quiet():
        tool = quantizer.Quantizer(source, recipe)
        result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        return bytes(result.quantized_model)


def _loaded(data: bytes, mode: QuantMode) -> LitertModel:
    try:
        return LitertModel(data)
    except InvalidModel as error:
        raise UnsupportedModel(
            f"what the quantizer made of the model cannot be run (mode {mode})",
            why=error.why,
            hint="keep the operator that is named float by a rule for it, or choose another mode",
        ) from error


def _float_notes(graph: Graph, mode: QuantMode) -> Iterator[str]:
    kept = float_operators(graph, mode)
    if kept:
        what = "computed in float" if mode.is_static else "kept with float weights"
        yield f"{len(kept)} of {len(graph.operators)} operators are {what}: {tally(kept)}"


def _range_notes(ranges: Ranges | None) -> Iterator[str]:
    names = constant_tensors(ranges or {})
    if names:
        listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
        yield f"{len(names)} tensors have one value on all calibration frames: {listed}"
