"""Rules for what names parts of a model from outside: signatures and metadata."""

from dataclasses import dataclass

from dsops.tflite_lint import fields
from dsops.tflite_lint.flatbuffer import Table, unsound
from dsops.tflite_lint.limits import LintLimits
from dsops.tflite_lint.model import MAX_ARITY, Model


@dataclass(frozen=True)
class SignatureNames:
    """Names of the first subgraph's inputs and outputs, by tensor, from the first signature that names them."""

    inputs: dict[int, str]
    outputs: dict[int, str]


def check_signatures(model: Model, limits: LintLimits) -> SignatureNames:
    """Check the signatures; return the names that they give.

    Raises:
        InvalidModel: One names a subgraph or tensor that does not exist, or that is no input or output.
    """
    names = SignatureNames({}, {})
    keys = set()
    for table in model.root.tables(fields.Model.SIGNATURES, limits.buffers, "signature"):
        key = table.text(fields.Signature.KEY, limits.name_bytes, "bytes of key")
        if key in keys:
            raise unsound(table.where, f"key {key[:80]!r} is that of another signature")
        keys.add(key)
        number = table.uint32(fields.Signature.SUBGRAPH)
        if number >= len(model.subgraphs):
            raise unsound(table.where, f"it names subgraph {number} of {len(model.subgraphs)}")
        graph = model.subgraphs[number]
        inputs = _names(table, fields.Signature.INPUTS, graph.inputs, "input", limits)
        outputs = _names(table, fields.Signature.OUTPUTS, graph.outputs, "output", limits)
        if number == 0 and not names.inputs and not names.outputs:
            names = SignatureNames(inputs, outputs)
    return names


def _names(signature: Table, field: int, tensors: tuple[int, ...], what: str, limits: LintLimits) -> dict[int, str]:
    found: dict[int, str] = {}
    known = set(tensors)
    taken = set()
    for entry in signature.tables(field, MAX_ARITY, what):
        name = entry.text(fields.TensorMap.NAME, limits.name_bytes, "bytes of name")
        index = entry.uint32(fields.TensorMap.TENSOR)
        where = f"{signature.where}, {entry.where}"
        if index not in known:
            raise unsound(where, f"tensor {index} is no {what} of its subgraph")
        if name in taken:
            raise unsound(where, f"name {name[:80]!r} is that of another {what}")
        taken.add(name)
        found.setdefault(index, name)
    return found


def check_metadata(model: Model, limits: LintLimits) -> dict[str, int]:
    """Check the metadata; return the buffer of each entry by its name.

    Raises:
        InvalidModel: One names a buffer that does not exist.
    """
    count = len(model.buffers)
    for number in model.root.int32s(fields.Model.METADATA_BUFFER, limits.buffers, "buffers of metadata"):
        if not 0 <= number < count:
            raise unsound("metadata", f"it names buffer {number} of {count}")
    found = {}
    for table in model.root.tables(fields.Model.METADATA, limits.buffers, "metadata entry"):
        number = table.uint32(fields.Metadata.BUFFER)
        if number >= count:
            raise unsound(table.where, f"it names buffer {number} of {count}")
        found[table.text(fields.Metadata.NAME, limits.name_bytes, "bytes of name")] = number
    return found
