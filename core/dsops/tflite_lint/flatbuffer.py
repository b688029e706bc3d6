"""Reads a FlatBuffer that nobody vouches for: every offset and length is checked before it is followed.

What is read follows the FlatBuffers binary format ("FlatBuffer Internals" of its documentation): a table begins with a
signed offset to its vtable, which holds the offset of each field; vectors, strings and tables lie elsewhere, behind
unsigned offsets. What its verifier asks for is asked for here: bounds, alignment, and a zero byte after each string.

Two things are asked besides. No two parts overlap unless they are the same part, which is what a writer that shares
equal strings or vtables makes. And the work is bounded: parts that are named often cost their reader each time, so a
small file could otherwise ask for any amount of it.
"""

import struct
import sys
from array import array
from typing import Final

from dsops.errors import InvalidModel

_OFFSET: Final = struct.Struct("<I")
_SIGNED_OFFSET: Final = struct.Struct("<i")
_VTABLE_HEAD: Final = struct.Struct("<HH")
_BYTE: Final = struct.Struct("<b")
_LONG: Final = struct.Struct("<Q")
_FLOAT: Final = struct.Struct("<f")
_ITEM_BYTES: Final = {"B": 1, "i": 4, "f": 4, "q": 8}
_MIN_VTABLE: Final = 4
_TABLE_WORK: Final = 16
_INDEX_WORK: Final = 8
"""What a table and an index of a tensor cost, in elements of a long vector: about as much as the rules for them."""
_NO_NUL: Final = "a string does not end with a zero byte"


def unsound(where: str, why: str) -> InvalidModel:
    """Return the error of a file whose structure is wrong."""
    return InvalidModel("the TFLite file is not sound", why=f"{where}: {why}", place=where)


class Reader:
    """Bytes, what was read of them, and how much work is left."""

    def __init__(self, data: bytes, work: int) -> None:
        self.data = data
        self.size = len(data)
        self._work = work
        self._ends: dict[int, int] = {}
        self._vtables: dict[int, tuple[int, tuple[int, ...]]] = {}

    def root(self) -> "Table":
        """Return the table that the file begins with.

        Raises:
            InvalidModel: There is none.
        """
        return self.table(self.offset(0, "the file"), "the file")

    def offset(self, position: int, where: str) -> int:
        """Follow the unsigned offset at ``position``; return where it leads."""
        if position + 4 > self.size:
            raise unsound(where, "the file is cut short")
        target = position + int(_OFFSET.unpack_from(self.data, position)[0])
        if target + 4 > self.size:
            raise unsound(where, "an offset leads outside the file")
        return target

    def table(self, position: int, where: str) -> "Table":
        """Return the table at ``position``, which holds at least four bytes of the file."""
        if position % 4:
            raise unsound(where, "a table is not aligned")
        start = position - int(_SIGNED_OFFSET.unpack_from(self.data, position)[0])
        form = self._vtables.get(start) or self._read_vtable(start, where)
        if position + form[0] > self.size:
            raise unsound(where, "a part ends outside the file")
        # A table's length may count padding that its neighbour uses, so only what holds fields is its own.
        self.claim(position, position + max(form[1], default=0) + 1, where)
        self.spend(_TABLE_WORK, where)
        return Table(self, position, form, where)

    def claim(self, start: int, end: int, where: str) -> None:
        """Note that a part of the file was read.

        Raises:
            InvalidModel: It ends outside the file, or elsewhere than before.
        """
        if end > self.size:
            raise unsound(where, "a part ends outside the file")
        if self._ends.setdefault(start, end) != end:
            raise unsound(where, "two parts of the file overlap")

    def spend(self, amount: int, where: str) -> None:
        """Count work.

        Raises:
            InvalidModel: Too much was done for this file.
        """
        self._work -= amount
        if self._work < 0:
            raise unsound(
                where, "the file asks for too much work; it names the same parts over and over, or is too large"
            )

    def end(self) -> int:
        """Return where the last part ends.

        Raises:
            InvalidModel: Two parts overlap.
        """
        last = 4
        for start, end in sorted(self._ends.items()):
            if start < last and end > start:
                raise unsound("the file", f"two parts of it overlap at byte {start}")
            last = max(last, end)
        return last

    def _read_vtable(self, start: int, where: str) -> tuple[int, tuple[int, ...]]:
        if not 0 <= start <= self.size - _MIN_VTABLE or start % 2:
            raise unsound(where, "a table's vtable lies outside the file or is not aligned")
        vtable_bytes, table_bytes = _VTABLE_HEAD.unpack_from(self.data, start)
        if vtable_bytes < _MIN_VTABLE or vtable_bytes % 2 or table_bytes < _MIN_VTABLE:
            raise unsound(where, "a vtable gives impossible lengths")
        self.claim(start, start + vtable_bytes, where)
        count = (vtable_bytes - _MIN_VTABLE) // 2
        self.spend(count, where)
        fields: tuple[int, ...] = struct.unpack_from(f"<{count}H", self.data, start + _MIN_VTABLE)
        used = [field for field in fields if field]
        if used and not _MIN_VTABLE <= min(used) <= max(used) < table_bytes:
            raise unsound(where, "a field lies outside its table")
        if len(set(used)) != len(used):
            raise unsound(where, "two fields of a table share a place")
        self._vtables[start] = (table_bytes, fields)
        return table_bytes, fields


class Table:
    """One table. A getter takes the field's number and returns its value, or the default when it is absent."""

    __slots__ = ("_fields", "_length", "_reader", "position", "where")

    def __init__(self, reader: Reader, position: int, form: tuple[int, tuple[int, ...]], where: str) -> None:
        self._reader = reader
        self._length, self._fields = form
        self.position = position
        self.where = where

    def has(self, field: int) -> bool:
        """Say whether a field is present."""
        return field < len(self._fields) and self._fields[field] != 0

    def byte(self, field: int, default: int = 0) -> int:
        """Return a ``byte``, ``ubyte`` or ``bool`` as a signed number."""
        return int(self._number(field, _BYTE, default))

    def flag(self, field: int) -> bool:
        """Return a ``bool``, false by default.

        Raises:
            InvalidModel: It is neither 0 nor 1.
        """
        value = self.byte(field)
        if value not in {0, 1}:
            raise unsound(self.where, f"a truth value is {value}")
        return value == 1

    def int32(self, field: int, default: int = 0) -> int:
        """Return an ``int``."""
        return int(self._number(field, _SIGNED_OFFSET, default))

    def uint32(self, field: int, default: int = 0) -> int:
        """Return a ``uint``."""
        return int(self._number(field, _OFFSET, default))

    def uint64(self, field: int) -> int:
        """Return a ``ulong``, 0 by default."""
        return int(self._number(field, _LONG, 0))

    def float32(self, field: int) -> float:
        """Return a ``float``, 0 by default."""
        return float(self._number(field, _FLOAT, 0.0))

    def table(self, field: int, where: str = "") -> "Table | None":
        """Return a table that this one names."""
        position = self._follow(field)
        return None if position is None else self._reader.table(position, where or self.where)

    def tables(self, field: int, most: int, what: str) -> "list[Table]":
        """Return a vector of tables, each called ``<what> <index>`` in errors."""
        reader, where = self._reader, self.where
        start, count = self._span(field, 4, most, f"{what}s")
        reader.spend(count, where)
        found = []
        for index in range(count):
            name = f"{what} {index}"
            found.append(reader.table(reader.offset(start + 4 * index, name), name))
        return found

    def int32s(self, field: int, most: int, what: str) -> tuple[int, ...]:
        """Return a vector of ``int``; it may be absent, which is an empty one."""
        start, count = self._span(field, 4, most, what)
        self._reader.spend(count * _INDEX_WORK, self.where)
        values: tuple[int, ...] = struct.unpack_from(f"<{count}i", self._reader.data, start)
        return values

    def numbers(self, field: int, kind: str, what: str) -> "array[float] | array[int]":
        """Return a long vector of numbers; ``kind`` is as in :mod:`struct`: ``f`` float, ``q`` long."""
        item = _ITEM_BYTES[kind]
        start, count = self._span(field, item, self._reader.size, what)
        self._reader.spend(count, self.where)
        data = self.data(start, count * item)
        return real_numbers(data) if kind == "f" else whole_numbers(data, kind)

    def span(self, field: int, what: str) -> tuple[int, int]:
        """Return start and length of a vector of bytes, (0, 0) when it is absent; it is not copied."""
        return self._span(field, 1, self._reader.size, what)

    def text(self, field: int, most: int, what: str) -> str:
        """Return a string, empty when absent.

        Raises:
            InvalidModel: It is not UTF-8, or longer than ``most`` bytes.
        """
        start, count = self._span(field, 1, most, what)
        if not start:
            return ""
        if self.data(start + count, 1) != b"\0":
            raise unsound(self.where, _NO_NUL)
        try:
            return self.data(start, count).decode("utf-8")
        except UnicodeDecodeError as error:
            raise unsound(self.where, f"{what} is not UTF-8") from error

    def data(self, start: int, length: int) -> bytes:
        """Return bytes of the file."""
        return self._reader.data[start : start + length]

    def claim(self, start: int, end: int) -> None:
        """Note that this table names bytes which lie outside any vector."""
        self._reader.claim(start, end, self.where)

    def spend(self, amount: int) -> None:
        """Count work that is done for this table."""
        self._reader.spend(amount, self.where)

    def _number(self, field: int, form: struct.Struct, default: float) -> float:
        place = self._fields[field] if field < len(self._fields) else 0
        if not place:
            return default
        position = self.position + place
        if position % form.size or place + form.size > self._length:
            raise unsound(self.where, "a field is not aligned, or lies outside its table")
        number: float = form.unpack_from(self._reader.data, position)[0]
        return number

    def _follow(self, field: int) -> int | None:
        place = self._fields[field] if field < len(self._fields) else 0
        if not place:
            return None
        position = self.position + place
        if position % 4 or place + 4 > self._length:
            raise unsound(self.where, "a field is not aligned, or lies outside its table")
        return self._reader.offset(position, self.where)

    def _span(self, field: int, item_bytes: int, most: int, what: str) -> tuple[int, int]:
        """Return where a vector's first item is, and how many there are."""
        position = self._follow(field)
        if position is None:
            return 0, 0
        if position % 4:
            raise unsound(self.where, f"{what}: a vector is not aligned")
        count = int(_OFFSET.unpack_from(self._reader.data, position)[0])
        if count > most:
            raise unsound(self.where, f"{count} {what}, at most {most} can be right")
        start = position + 4
        if start % item_bytes and count:
            raise unsound(self.where, f"{what}: a vector is not aligned")
        self._reader.claim(position, start + count * item_bytes, self.where)
        return start, count


def real_numbers(data: bytes) -> "array[float]":
    """Return little-endian numbers of binary32."""
    values = array("f")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def whole_numbers(data: bytes, kind: str) -> "array[int]":
    """Return little-endian integers; ``kind`` is as in :mod:`array`: ``i`` of 32 bits, ``q`` of 64."""
    values: array[int] = array(kind)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values
