"""Finds what quantization did wrong without saying so, and what a person should know of a result that stands."""

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops.errors import AccuracyGateFailed, InvalidInput, InvalidModel
from dsops.manifest import TensorSpec
from dsops_controller.build.data import Array, DataSet, input_dtype
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantization.graph import CASTS, Graph, Operator, tally
from dsops_controller.build.quantization.modes import QuantMode

CHECKED_FRAMES = 16
_DRAWN_FRAMES = 4
_SEED = 20260101
_NARROW = (
    schema.TensorType.INT8,
    schema.TensorType.INT16,
    schema.TensorType.INT4,
    schema.TensorType.INT2,
    schema.TensorType.FLOAT16,
)
_FLOAT = schema.TensorType.FLOAT32
_FEW_STEPS = 16
"""Below this a rounding is 3 percent of the best score or more."""
_FAR_OFF = 0.25
_WEIGHT_AXES = 2
_ELEMENTWISE = (
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "MAXIMUM",
    "MINIMUM",
    "PRELU",
    "SELECT_V2",
    "PADV2",
    "CONCATENATION",
    "PACK",
)
"""Their constants are factors and fillings, not weights; they stay float in the modes that quantize weights."""


def require_float(graph: Graph) -> None:
    """Check that a model can be quantized.

    Raises:
        InvalidModel: It is quantized already, or stores weights as float16.
    """
    for tensor in graph.tensors:
        if tensor.scaled:
            raise InvalidModel(
                "the model is quantized already",
                why=f"tensor {tensor.name!r} has a scale",
                hint="give the float model, or ask for the mode float32 to take it as it is",
            )
        if tensor.constant and tensor.type == schema.TensorType.FLOAT16:
            raise InvalidModel(
                "the model stores weights as float16", why=f"tensor {tensor.name!r}", hint="give the float32 model"
            )


def require_varied(calibration: DataSet) -> None:
    """Check that calibration shows a range of each real input.

    Raises:
        InvalidInput: An input has one value everywhere.
    """
    for name, values in calibration.inputs.items():
        if values.dtype == np.float32 and values.min() == values.max():
            raise InvalidInput(
                f"the calibration data of input {name!r} is {values.flat[0]:g} everywhere",
                why="no range can be measured",
                hint="give frames as the devices will see them",
            )


def require_change(before: Graph, after: Graph, mode: QuantMode) -> None:
    """Check that quantization did something.

    Raises:
        InvalidModel: No tensor is stored in fewer bits than before, or only casts were put around float operators.
    """
    narrow = any(tensor.type in _NARROW and (tensor.scaled or tensor.constant) for tensor in after.tensors)
    if not narrow or (mode.is_static and len(float_operators(after, mode)) == len(_real(after))):
        raise InvalidModel(
            f"quantization to {mode} changed nothing",
            why=f"no operator of the model can be quantized in this way: {tally(before.operators)}",
            hint="choose another mode: int8 and int16x8 cover most operators",
        )


def float_operators(after: Graph, mode: QuantMode) -> list[Operator]:
    """Return the operators that stayed float though the mode would quantize them if it could.

    In the modes with integer activations these are all that compute in float; in the others, those that read float
    weights.
    """
    if mode.is_static:
        return [
            operator for operator in _real(after) if any(tensor.type == _FLOAT for tensor in after.outputs_of(operator))
        ]
    return [
        operator
        for operator in _real(after)
        if operator.name not in _ELEMENTWISE
        and any(
            tensor.constant and tensor.type == _FLOAT and len(tensor.shape) >= _WEIGHT_AXES
            for tensor in after.inputs_of(operator)
        )
    ]


def check_frames_of(model: LitertModel, calibration: DataSet | None) -> DataSet:
    """Return frames to compare two models on: of the calibration data, or drawn when there is none."""
    if calibration is not None:
        return calibration.rows(slice(0, CHECKED_FRAMES))
    rng = np.random.default_rng(_SEED)
    return DataSet({spec.name: _drawn(rng, spec) for spec in model.inputs})


def compare_answers(original: LitertModel, quantized: LitertModel, graph: Graph, frames: DataSet) -> list[str]:
    """Run both models and return what is worth saying of the quantized one's outputs.

    Args:
        original: The float model.
        quantized: The result.
        graph: The result's graph.
        frames: What to run them on.

    Raises:
        AccuracyGateFailed: An output is the same for every frame, or not a number, and the float model's is not.
        InvalidModel: A model cannot be run.
    """
    before, after = original.run(frames.inputs), quantized.run(frames.inputs)
    notes = []
    for spec, index in zip(quantized.outputs, graph.outputs, strict=True):
        if before[spec.name].dtype == np.float32:
            _refuse_broken(before[spec.name], after[spec.name], spec)
            notes += _far_off(before[spec.name], after[spec.name], spec)
            if "SOFTMAX" in _last_operators(graph, index):
                notes += _coarse_scores(before[spec.name], after[spec.name], spec)
    return notes


def require_same_tensors(original: LitertModel, quantized: LitertModel) -> None:
    """Check that inputs and outputs kept names, order and shapes.

    Raises:
        InvalidModel: They did not.
    """
    for kind in ("inputs", "outputs"):
        before, after = (_forms(getattr(model, kind)) for model in (original, quantized))
        if before != after:
            raise InvalidModel(f"quantization changed the model's {kind}", why=f"{before} became {after}")


def _forms(specs: tuple[TensorSpec, ...]) -> Mapping[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in specs}


def _drawn(rng: np.random.Generator, spec: TensorSpec) -> Array:
    dtype = input_dtype(spec)
    shape = (_DRAWN_FRAMES, *spec.shape[1:])
    return rng.random(shape, np.float32) if dtype == np.float32 else np.zeros(shape, dtype)


def _refuse_broken(before: Array, after: Array, spec: TensorSpec) -> None:
    if np.isfinite(before).all() and not np.isfinite(after).all():
        raise AccuracyGateFailed(f"output {spec.name!r} of the quantized model holds NaN or infinite values")
    varied = float(np.ptp(before, axis=0).max(initial=0.0))
    if varied > 2 * spec.scale and not np.ptp(after, axis=0).any() and len(before) > 1:
        raise AccuracyGateFailed(
            f"output {spec.name!r} of the quantized model is the same whatever it is shown",
            why=f"the float model's varies by {varied:.3g}: quantization broke the graph, or the calibration data does "
            "not resemble the model's input",
            frames=len(before),
        )
    if before.any() and not after.any():
        raise AccuracyGateFailed(
            f"output {spec.name!r} of the quantized model is all zero",
            why=f"the float model's values go up to {np.abs(before).max():.3g}, and a step is {spec.scale:.3g}",
            hint=_SMALL_SCORES,
            frames=len(before),
        )


_SMALL_SCORES = "leave the Softmax out of the model, choose int16x8, or keep it float by a rule for SOFTMAX"


def _far_off(before: Array, after: Array, spec: TensorSpec) -> list[str]:
    """Return a note when an output is off by much of its range somewhere; a kernel may overflow without an error."""
    width = float(np.ptp(before))
    worst = float(np.abs(before - after).max(initial=0.0))
    if worst <= _FAR_OFF * width:
        return []
    return [f"output {spec.name!r} is off by up to {worst:.3g}, {worst / width:.0%} of its range in the float model"]


def _coarse_scores(before: Array, after: Array, spec: TensorSpec) -> list[str]:
    """Return a note when a step is coarse for the best scores, as with a Softmax over many classes."""
    if not spec.scale or before.ndim != 2:
        return []
    steps = float(np.median(before.max(axis=1))) / spec.scale
    tied = int(((after == after.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())
    if steps >= _FEW_STEPS:
        return []
    found = f"the best score is {steps:.1f} steps of {spec.scale:.3g} high, and equals another one on {tied} frames"
    return [f"output {spec.name!r}: on {len(before)} frames {found}; {_SMALL_SCORES}"]


def _last_operators(graph: Graph, index: int) -> list[str]:
    """Return the kinds of operators that an output comes from, casts left out."""
    producer = next((operator for operator in graph.operators if index in operator.outputs), None)
    if producer is None:
        return []
    return _last_operators(graph, producer.inputs[0]) if producer.name in CASTS else [producer.name]


def _real(graph: Graph) -> list[Operator]:
    return [operator for operator in graph.operators if operator.name not in CASTS]
