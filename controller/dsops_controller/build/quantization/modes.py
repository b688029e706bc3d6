"""Says what the quantizer shall do with each operator: one mode for all, and rules for some."""

import contextlib
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager
from ai_edge_quantizer.utils.tfl_flatbuffer_utils import TFL_OP_CODE_TO_NAME

from dsops.errors import InvalidInput, UnsupportedModel
from dsops_controller.build.quantization.graph import OPERATOR_NAMES, Graph, Operator, tally

_Algorithm = algorithm_manager.AlgorithmName
_ALL = qtyping.TFLOperationName.ALL_SUPPORTED
MAX_PATTERN = 256
"""A rule's pattern has no more characters."""
SEARCH_S = 5.0
"""Processor time within which a rule's pattern must have been searched in all names."""
_SHOWN = 40
_ANYWHERE = ".*"
_EVERYWHERE = ""
"""Two patterns that match every name; a setting under the second takes precedence where it is supported."""
Recipe: TypeAlias = Any
"""A recipe in the quantizer's own form; the package carries no types."""


class QuantMode(StrEnum):
    """How numbers are stored and computed."""

    FLOAT32 = "float32"
    """As the source model does."""
    FLOAT16 = "float16"
    """Weights stored float16, computed in float32."""
    INT8 = "int8"
    """Weights and activations int8; smallest and fastest, needs calibration."""
    INT16X8 = "int16x8"
    """Weights int8, activations int16; closer to float, needs calibration."""
    DYNAMIC8 = "dynamic8"
    """Weights int8, activations float, quantized while it runs."""
    DYNAMIC4 = "dynamic4"
    """As ``dynamic8``, with weights of 4 bits where there are kernels for them."""
    WEIGHT8 = "weight8"
    """Weights stored int8, computed in float."""
    WEIGHT4 = "weight4"
    """Weights stored in 4 bits where there are kernels for them, computed in float."""

    @property
    def is_static(self) -> bool:
        """Whether activations are stored as integers, whose ranges calibration measures."""
        return self in (QuantMode.INT8, QuantMode.INT16X8)


@dataclass(frozen=True)
class OperatorRule:
    """An exception: some operators are quantized otherwise, or not at all. Of two that match, the later one counts.

    Attributes:
        pattern: Regular expression of Python, searched in the name of each tensor that an operator writes.
        operator: TFLite's name of the operators that are meant, such as ``CONV_2D``; empty means all.
        mode: How they are quantized; ``float32`` leaves them alone.
    """

    pattern: str
    operator: str = ""
    mode: QuantMode = QuantMode.FLOAT32


_WIDER = {
    QuantMode.INT8: QuantMode.DYNAMIC8,
    QuantMode.INT16X8: QuantMode.DYNAMIC8,
    QuantMode.DYNAMIC4: QuantMode.DYNAMIC8,
    QuantMode.WEIGHT4: QuantMode.WEIGHT8,
}
"""What operators get that cannot be quantized in a mode: an embedding's table, say, in the static ones."""


def resolve_rules(graph: Graph, rules: Sequence[OperatorRule], search_s: float = SEARCH_S) -> dict[Operator, QuantMode]:
    """Return the mode of each operator for which there is a rule.

    Args:
        graph: The model.
        rules: The rules; of two that match, the later one counts.
        search_s: Processor time that one rule's pattern may take; a regular expression can take years. Only a process's
            main thread can be held to it, which the process of :mod:`dsops_controller.build.quantization.isolated` is.

    Raises:
        InvalidInput: A rule's pattern or operator is not one, it takes too long, or it matches nothing.
    """
    modes: dict[Operator, QuantMode] = {}
    for rule in rules:
        try:
            with _at_most(search_s):
                matched = _matches(graph, rule)
        except TimeoutError as error:
            raise InvalidInput(
                f"the pattern of the rule for {_shown(rule)} takes too long",
                why=f"its search took over {search_s:g} s; repeats inside repeats, as in (a+)+, do that",
                hint="write a simpler pattern",
            ) from error
        if not matched:
            raise InvalidInput(
                f"the rule for {_shown(rule)} matches no operator of the model",
                why=f"its operators are {tally(graph.operators)}",
                hint="a pattern is searched in the names of the tensors that operators write",
            )
        modes |= dict.fromkeys(matched, rule.mode)
    return modes


def tool_recipe(graph: Graph, mode: QuantMode, modes: dict[Operator, QuantMode]) -> Recipe:
    """Return the recipe in the quantizer's form.

    Raises:
        UnsupportedModel: There is a rule for an operator that cannot be quantized in that way.
    """
    recipe = recipe_manager.RecipeManager()
    if mode in _WIDER:
        _add(recipe, _WIDER[mode], _ANYWHERE, _ALL)
    _add(recipe, mode, _EVERYWHERE, _ALL)
    for operator, special in modes.items():
        _add_exception(recipe, graph, operator, special)
    return recipe.get_quantization_recipe()


def _matches(graph: Graph, rule: OperatorRule) -> list[Operator]:
    if rule.operator and rule.operator not in OPERATOR_NAMES:
        raise InvalidInput(
            f"{rule.operator!r} in a quantization rule is not a TFLite operator",
            why=f"the model's operators are {tally(graph.operators)}",
        )
    if len(rule.pattern) > MAX_PATTERN:
        what = f"the pattern {rule.pattern[:_SHOWN]!r}... of a quantization rule is too long"
        raise InvalidInput(what, why=f"it has {len(rule.pattern)} characters; {MAX_PATTERN} are allowed")
    try:
        pattern = re.compile(rule.pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidInput(f"the pattern of the rule for {_shown(rule)} is wrong", why=str(error)) from error
    return [
        operator
        for operator in graph.operators
        if rule.operator in ("", operator.name)
        and any(pattern.search(tensor.name) for tensor in graph.outputs_of(operator))
    ]


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Bound the processor time of a block in the main thread; Python's search looks for signals while it runs.

    Raises:
        TimeoutError: The time is over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before or signal.SIG_DFL)


def _shown(rule: OperatorRule) -> str:
    return f"{rule.pattern!r}, operator {rule.operator}" if rule.operator else repr(rule.pattern)


def _add_exception(recipe: recipe_manager.RecipeManager, graph: Graph, operator: Operator, mode: QuantMode) -> None:
    kind = TFL_OP_CODE_TO_NAME.get(getattr(schema.BuiltinOperator, operator.name))
    if kind is None and mode == QuantMode.FLOAT32:
        return
    scope = "".join(f"{tensor.name};" for tensor in graph.outputs_of(operator))
    what, hint = f"{graph.label(operator)} cannot be quantized to {mode}", "change the rule for it"
    if kind is None:
        raise UnsupportedModel(what, why="the quantizer does not know this operator", hint=hint)
    try:
        _add(recipe, mode, f"^{re.escape(scope)}$", kind)
    except ValueError as error:
        raise UnsupportedModel(what, why=str(error).split("\n", 1)[0], hint=hint) from error


def _add(recipe: recipe_manager.RecipeManager, mode: QuantMode, regex: str, kind: qtyping.TFLOperationName) -> None:
    match mode:
        case QuantMode.FLOAT32:
            recipe.add_quantization_config(regex, kind, algorithm_key=_Algorithm.NO_QUANTIZE)
        case QuantMode.FLOAT16:
            recipe.add_weight_only_config(regex, kind, num_bits=16, algorithm_key=_Algorithm.FLOAT_CASTING)
        case QuantMode.INT8 | QuantMode.INT16X8:
            bits = 8 if mode == QuantMode.INT8 else 16
            recipe.add_static_config(regex, kind, activation_num_bits=bits, weight_num_bits=8)
        case QuantMode.DYNAMIC8 | QuantMode.DYNAMIC4:
            recipe.add_dynamic_config(regex, kind, num_bits=8 if mode == QuantMode.DYNAMIC8 else 4)
        case QuantMode.WEIGHT8 | QuantMode.WEIGHT4:
            recipe.add_weight_only_config(regex, kind, num_bits=8 if mode == QuantMode.WEIGHT8 else 4)
