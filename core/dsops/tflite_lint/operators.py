"""What a rule says of an operator: how many tensors it takes and gives, of which types, and with which options.

A form such as ``T J? -> T`` lists the roles of inputs and outputs:

    T    the operator's main type; all of them are the same, and one of the rule's types
    I    int32         J    int32 or int64       B    bool
    F    float32       A    any type
    ?    after a role: may be left out           ~    may be missing at the end, but not be left out as -1
    ...  at the end: one or more of the last role
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsops.tflite_lint.checks_numbers import check_scaled
from dsops.tflite_lint.model import Tensor
from dsops.tflite_lint.node import Node
from dsops.tflite_lint.schema import DType, Options

Types = frozenset[DType]
_ROLES: dict[str, Types] = {
    "I": frozenset({DType.INT32}),
    "J": frozenset({DType.INT32, DType.INT64}),
    "B": frozenset({DType.BOOL}),
    "F": frozenset({DType.FLOAT32}),
    "A": frozenset(DType),
}


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor is to its operator."""

    letter: str
    may_be_left_out: bool
    may_be_missing: bool


@dataclass(frozen=True, slots=True)
class Form:
    """The roles on one side of an operator. The last one may repeat."""

    roles: tuple[Role, ...]
    repeats: bool

    @property
    def least(self) -> int:
        """The smallest number of tensors."""
        return max((place + 1 for place, role in enumerate(self.roles) if not role.may_be_missing), default=0)

    def role(self, place: int) -> Role:
        """Return the role of a tensor."""
        return self.roles[min(place, len(self.roles) - 1)]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is right for one operator.

    Attributes:
        inputs: Roles of the inputs.
        outputs: Roles of the outputs.
        types: What the main type may be.
        options: The table of options that it may carry.
        needs_options: Whether nothing works without them: a stride would be 0.
        check: What else must hold.
        scaled: Whether narrow integers stand for real numbers here, so that they need a scale.
    """

    inputs: Form
    outputs: Form
    types: Types
    options: Options
    needs_options: bool
    check: Callable[[Node], None] | None
    scaled: bool


def parse_forms(text: str) -> tuple[Form, Form]:
    """Return the forms of inputs and outputs from a text such as ``T J? -> T``."""
    inputs, outputs = text.split("->")
    return _form(inputs.split()), _form(outputs.split())


def _form(words: Sequence[str]) -> Form:
    roles = [Role(word[0], word[1:2] == "?", word[1:] in {"?", "~"}) for word in words]
    return Form(tuple(roles), bool(words) and words[-1].endswith("..."))


def check_rule(node: Node, rule: Rule) -> None:
    """Check an operator.

    Raises:
        InvalidModel: It breaks the rule.
    """
    _check_arity(node, "inputs", len(node.inputs), rule.inputs)
    _check_arity(node, "outputs", len(node.outputs), rule.outputs)
    _check_options(node, rule)
    _check_types(node, rule)
    if rule.check is not None:
        rule.check(node)


def _check_arity(node: Node, what: str, count: int, form: Form) -> None:
    most = count if form.repeats else len(form.roles)
    if not form.least <= count <= most:
        raise node.refuse(f"it has {count} {what}")


def _check_options(node: Node, rule: Rule) -> None:
    found = node.operator.options_type
    if found not in {Options.NONE, rule.options}:
        raise node.refuse(f"it carries options of type {found}, its own are {int(rule.options)}")
    if rule.needs_options and found == Options.NONE:
        raise node.refuse("it has no options")


def _check_types(node: Node, rule: Rule) -> None:
    main: Tensor | None = None
    for place, tensor in enumerate(node.inputs):
        role = rule.inputs.role(place)
        if tensor is None:
            if not role.may_be_left_out:
                raise node.refuse(f"input {place} is left out")
            continue
        main = _check_type(node, rule, role, tensor, f"input {place}", main)
    for place, tensor in enumerate(node.outputs):
        main = _check_type(node, rule, rule.outputs.role(place), tensor, f"output {place}", main)


def _check_type(node: Node, rule: Rule, role: Role, tensor: Tensor, what: str, main: Tensor | None) -> Tensor | None:
    allowed = rule.types if role.letter == "T" else _ROLES[role.letter]
    if tensor.dtype not in allowed:
        raise node.refuse(f"{what} is {tensor.dtype.name}, which it does not take there")
    if role.letter != "T":
        return main
    if main is not None and main.dtype is not tensor.dtype:
        raise node.refuse(f"{what} is {tensor.dtype.name}, another tensor is {main.dtype.name}")
    if rule.scaled:
        check_scaled(node, tensor, what)
    return main or tensor
