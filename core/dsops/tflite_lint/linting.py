"""The check as a whole: reads a file and applies every rule."""

from dsops.tflite_lint import fields
from dsops.tflite_lint.checks_operators import check_operators
from dsops.tflite_lint.checks_order import check_order
from dsops.tflite_lint.checks_signatures import check_metadata, check_signatures
from dsops.tflite_lint.checks_tensors import check_tensors
from dsops.tflite_lint.facts import Facts, gather_facts
from dsops.tflite_lint.flatbuffer import Reader, unsound
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.model import ModelReader, OperatorCode
from dsops.tflite_lint.schema import IDENTIFIER, VERSION

_SMALLEST = 16
_DEFAULT_LIMITS = LintLimits()


def lint(data: bytes, limits: LintLimits = _DEFAULT_LIMITS) -> Facts:
    """Check a TFLite file; return what the model is.

    Args:
        data: The file.
        limits: How large the model may be, and what it may contain.

    Raises:
        InvalidModel: The file is damaged, contradicts itself, exceeds the limits, or uses what they do not admit.
            ``why`` says where and what, ``details`` has the place.
    """
    if len(data) > limits.file_bytes:
        raise unsound("the file", f"it has {len(data)} bytes, {limits.file_bytes} are allowed")
    if len(data) < _SMALLEST or data[4:8] != IDENTIFIER:
        raise unsound("the file", "it does not begin as a TFLite file does")
    reader = Reader(data, limits.work)
    root = reader.root()
    version = root.uint32(fields.Model.VERSION)
    if version != VERSION:
        raise unsound("the file", f"it has version {version} of the schema, only {VERSION} is known")
    model = ModelReader(reader, limits).read(root)
    activations = check_tensors(model, limits)
    check_order(model)
    check_operators(model, limits)
    names = check_signatures(model, limits)
    metadata = check_metadata(model, limits)
    trailing = len(data) - reader.end()
    if trailing > limits.trailing_bytes:
        raise unsound("the file", f"{trailing} bytes follow the model, {limits.trailing_bytes} are allowed")
    return gather_facts(model, names, metadata, activations, trailing)


def list_operators(data: bytes, limits: LintLimits = _DEFAULT_LIMITS) -> tuple[OperatorCode, ...]:
    """Return the kinds of operators that a file declares. Whether it is sound is the business of :func:`lint`.

    Raises:
        InvalidModel: It cannot be read.
    """
    reader = Reader(data, limits.work)
    return ModelReader(reader, limits).read(reader.root()).codes
