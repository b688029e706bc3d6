"""Rules for operators: which are admitted, and what is right for each."""

from dsops.tflite_lint.checks_control import check_control
from dsops.tflite_lint.flatbuffer import unsound
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.model import Model, Operator, OperatorCode
from dsops.tflite_lint.node import Node
from dsops.tflite_lint.operator_table import RULES
from dsops.tflite_lint.operators import check_rule
from dsops.tflite_lint.schema import Op

_CONTROL = frozenset({Op.IF, Op.WHILE, Op.CALL_ONCE, Op.VAR_HANDLE, Op.READ_VARIABLE, Op.ASSIGN_VARIABLE})


def check_operators(model: Model, limits: LintLimits) -> None:
    """Check every operator, in graphs whose order is right already.

    Raises:
        InvalidModel: One is not admitted, or cannot be right.
    """
    for graph in model.subgraphs:
        for operator in graph.operators:
            _check_admitted(operator, limits)
            rule = None if operator.kind.op is None else RULES.get(operator.kind.op)
            if rule is not None:
                check_rule(Node(operator, graph, model.root), rule)
    if limits.control_flow:
        check_control(model)


def _check_admitted(operator: Operator, limits: LintLimits) -> None:
    why = why_not_admitted(operator.kind, limits)
    if why:
        raise unsound(operator.where, why)


def why_not_admitted(kind: OperatorCode, limits: LintLimits) -> str:
    """Return why a kind of operator is refused wherever it is used, or empty when it is not."""
    if kind.op is Op.CUSTOM:
        known = kind.custom in limits.custom_operators
        return "" if known else "custom operators are not admitted, unless the runtime is known to have them"
    if kind.op in _CONTROL:
        return "" if limits.control_flow else "operators that run other subgraphs are not admitted"
    if kind.op not in RULES and kind.name not in limits.unchecked_operators:
        return "no rule says what is right for this operator, so it is not admitted"
    return ""
