"""Rules for operators: which are admitted."""

from dsops.tflite_lint.flatbuffer import unsound
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.model import Model, Operator
from dsops.tflite_lint.schema import Op

CONTROL = frozenset(
    {Op.IF, Op.WHILE, Op.CALL, Op.CALL_ONCE, Op.VAR_HANDLE, Op.READ_VARIABLE, Op.ASSIGN_VARIABLE, Op.DELEGATE}
)


def check_operators(model: Model, limits: LintLimits) -> None:
    """Check every operator.

    Raises:
        InvalidModel: One is not admitted, or cannot be right.
    """
    for graph in model.subgraphs:
        for operator in graph.operators:
            _check_admitted(operator, limits)


def _check_admitted(operator: Operator, limits: LintLimits) -> None:
    kind = operator.kind
    if kind.op is Op.CUSTOM and kind.custom not in limits.custom_operators:
        raise unsound(operator.where, "custom operators run code that this runtime does not have")
    if kind.op in CONTROL and not limits.control_flow:
        raise unsound(operator.where, "operators that run other subgraphs are not admitted")
