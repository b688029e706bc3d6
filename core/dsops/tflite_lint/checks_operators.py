"""Rules for operators: which are admitted, and what is right for each."""

from dsops.tflite_lint.checks_control import check_control
from dsops.tflite_lint.flatbuffer import unsound
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.model import Model, Operator
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
    kind = operator.kind
    if kind.op is Op.CUSTOM:
        if kind.custom not in limits.custom_operators:
            raise unsound(operator.where, "custom operators are not admitted, unless the runtime is known to have them")
    elif kind.op in _CONTROL:
        if not limits.control_flow:
            raise unsound(operator.where, "operators that run other subgraphs are not admitted")
    elif kind.op not in RULES and kind.name not in limits.unchecked_operators:
        raise unsound(operator.where, "no rule says what is right for this operator, so it is not admitted")
