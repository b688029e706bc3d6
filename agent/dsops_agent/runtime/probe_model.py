"""The smallest TFLite file that declares one operator, to ask a runtime whether it knows it.

Written by hand (FlatBuffers internals, "Encoding example"): a table is a 32-bit distance back to its vtable, then its
fields; a vtable is its own length, the table's, then the place of each field or 0; references are 32-bit distances
forward. Everything here is aligned to four bytes, which is all that these fields need.
"""

import struct
from collections.abc import Mapping

from dsops.tflite_lint.fields import Model, OperatorCode, SubGraph
from dsops.tflite_lint.schema import IDENTIFIER, LAST_OLD_CODE, VERSION, Op

_SUBGRAPH_LISTS = (SubGraph.TENSORS, SubGraph.INPUTS, SubGraph.OUTPUTS, SubGraph.OPERATORS)


def probe_model(op: Op, version: int) -> bytes:
    """Return a model with one operator code and an empty graph that does not use it."""
    writer = _Writer()
    lists = (Model.OPERATOR_CODES, Model.SUBGRAPHS, Model.BUFFERS)
    root = writer.table({Model.VERSION: VERSION} | dict.fromkeys(lists, 0))
    struct.pack_into("<I", writer.data, 0, root.start)  # the file begins with where the root is
    code = {OperatorCode.OLD_CODE: min(op, LAST_OLD_CODE), OperatorCode.VERSION: version, OperatorCode.CODE: int(op)}
    for place, fields in zip(lists, (code, dict.fromkeys(_SUBGRAPH_LISTS, 0), {}), strict=True):
        element = writer.vector(root.places[place], 1)
        table = writer.table(fields)
        struct.pack_into("<I", writer.data, element, table.start - element)
        if place == Model.SUBGRAPHS:
            for number in _SUBGRAPH_LISTS:
                writer.vector(table.places[number], 0)
    return bytes(writer.data)


class _Table:
    """A table that was written: where it starts, and where each of its fields is."""

    def __init__(self, start: int, places: Mapping[int, int]) -> None:
        self.start = start
        self.places = places


class _Writer:
    """Writes front to back, parents before their parts, so that every reference points forward."""

    def __init__(self) -> None:
        self.data = bytearray(4) + IDENTIFIER

    def table(self, fields: Mapping[int, int]) -> _Table:
        """Append a table of 32-bit fields and its vtable; the old operator code, a byte, is one with three of padding.

        A field that is a reference is 0 until :meth:`vector` fills it.
        """
        count = max(fields, default=-1) + 1
        offsets = [0] * (count + count % 2)
        for position, number in enumerate(fields):
            offsets[number] = 4 + 4 * position
        vtable = len(self.data)
        head = (4 + 2 * len(offsets), 4 + 4 * len(fields))
        self.data += struct.pack(f"<{2 + len(offsets)}H", *head, *offsets)
        start = len(self.data)
        self.data += struct.pack(f"<i{len(fields)}i", start - vtable, *fields.values())
        return _Table(start, {number: start + offsets[number] for number in fields})

    def vector(self, reference: int, length: int) -> int:
        """Append a vector of 32-bit elements, let ``reference`` point to it, and return where its elements begin."""
        self.refer(reference)
        self.data += struct.pack("<I", length) + bytes(4 * length)
        return len(self.data) - 4 * length

    def refer(self, reference: int) -> None:
        """Let a reference point to what is appended next."""
        struct.pack_into("<I", self.data, reference, len(self.data) - reference)
