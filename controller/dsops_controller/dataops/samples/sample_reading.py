"""Samples with their tensors, by their ids or by what they are; what was erased is not there any more."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
from arro3.core import Array, DataType, Table
from sqlalchemy import select

from dsops.errors import InvalidInput, NotFound, TooLarge
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.erasing import Identity
from dsops_controller.dataops.samples.samples import MAX_EXPORT_BYTES, MAX_EXPORT_SAMPLES, SampleFilter, SampleRow
from dsops_controller.dataops.store import LakeStore
from dsops_controller.db.database import Database
from dsops_controller.db.tables import erased_sample

MAX_ID = 128
_ID = re.compile(r"([^/]+)/([0-9a-f]{32})/([0-9]{1,19})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROW = """
device, stream, seq, model, release, digest, epoch_us(time), reason, score, inclusion, request_id, predicted,
input_datatype, input_shape, octet_length(input)
"""
_REST = "input, output_datatype, output_shape, output, weight, redaction, schema, sealed_for, sealed"
_LENGTH = "octet_length(input) + octet_length(output) + coalesce(octet_length(sealed), 0)"
_WANTED = "from samples semi join wanted using (device, stream, seq)"
_MATCHING = """
from samples anti join erased using (device, stream, seq)
where ($model is null or model = $model) and ($device is null or device = $device)
  and ($reason is null or reason = $reason) and ($release is null or release = $release)
  and time >= $since and cast(day as date) >= cast($since as date)
  and time < $until and cast(day as date) <= cast($until as date)
"""
_ORDER = "order by time, device, stream, seq"


@dataclass(frozen=True, slots=True)
class SampleTensor:
    """An input or output as the device kept it: little-endian, row-major; the datatype's Open Inference name."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class FullSample:
    """One sample with its tensors; an output that was not kept has no datatype.

    Attributes:
        weight: By which it was drawn; None when unknown.
        redaction: What was taken out of the input before it was kept; empty: nothing.
        schema: SHA-256 of the tensor contract and the preprocessing; empty when unknown.
        sealed_for: Whose key opens ``sealed``, which the input then is in; empty: it is not sealed.
        sealed: Encapsulated key and ciphertext (RFC 9180).
    """

    row: SampleRow
    input: SampleTensor
    output: SampleTensor
    weight: float | None = None
    redaction: str = ""
    schema: str = ""
    sealed_for: str = ""
    sealed: bytes = b""

    @property
    def is_sealed(self) -> bool:
        """Whether only the holder of a private key can read the input."""
        return bool(self.sealed_for)


def identity(sample: str) -> Identity:
    """Return device, stream and sequence number of a sample's id.

    Raises:
        InvalidInput: It is no id.
    """
    found = _ID.fullmatch(sample)
    if found is None or len(sample) > MAX_ID:
        raise InvalidInput(
            f"{sample[:80]!r} is not the id of a sample", why="an id is DEVICE/STREAM/NUMBER", hint="dsops sample list"
        )
    return found[1], found[2], int(found[3])


class SampleReader:
    """Reads samples of one store. Safe for several threads."""

    def __init__(self, db: Database, store: LakeStore) -> None:
        self._db = db
        self._store = store

    def get(self, sample: str) -> FullSample:
        """Return one sample.

        Raises:
            NotFound: There is none, or it was erased.
            InvalidInput: It is no id.
        """
        found = self.named([sample])
        if not found:
            raise NotFound(f"there is no sample {sample}", hint="see which there are: dsops sample list")
        return found[0]

    def rows(self, samples: Iterable[str]) -> dict[str, SampleRow]:
        """Return those of the named samples that are there, without tensors, by id.

        Raises:
            InvalidInput: One is no id.
        """
        with self._store.opened(LakeTable.SAMPLES) as duck:
            _register(duck, "wanted", self._left(samples))
            found = duck.execute(f"select {_ROW} {_WANTED} {_ORDER}").fetchall()
        return {row.id: row for row in map(_row, found)}

    def named(self, samples: Iterable[str], version: int | None = None) -> list[FullSample]:
        """Return those of the named samples that are there, or were in a version of their table, oldest first.

        Raises:
            InvalidInput: One is no id.
            TooLarge: Together they are more than one answer can hold.
        """
        with self._store.opened(LakeTable.SAMPLES, version=version) as duck:
            _register(duck, "wanted", self._left(samples))
            return _full(duck, _WANTED, {})

    def matching(self, which: SampleFilter) -> list[FullSample]:
        """Return the samples that match, oldest first.

        Raises:
            TooLarge: Together they are more than one answer can hold.
        """
        with self._store.opened(LakeTable.SAMPLES, scope=which.scope()) as duck:
            _register(duck, "erased", map(identity, self.erased()))
            return _full(duck, _MATCHING, which.params())

    def erased(self) -> frozenset[str]:
        """Return the ids of samples that were erased."""
        with self._db.read() as connection:
            return frozenset(connection.execute(select(erased_sample.c.sample)).scalars())

    def _left(self, samples: Iterable[str]) -> list[Identity]:
        erased = self.erased()
        return [identity(sample) for sample in dict.fromkeys(samples) if sample not in erased]


def _register(duck: duckdb.DuckDBPyConnection, name: str, identities: Iterable[Identity]) -> None:
    rows = list(identities)
    table = Table.from_pydict(
        {
            "device": Array([row[0] for row in rows], type=DataType.string()),
            "stream": Array([row[1] for row in rows], type=DataType.string()),
            "seq": Array([min(row[2], 2**63 - 1) for row in rows], type=DataType.int64()),
        }
    )
    duck.register(name, table)


def _full(duck: duckdb.DuckDBPyConnection, source: str, params: dict[str, Any]) -> list[FullSample]:
    size = f"select count(*), coalesce(sum({_LENGTH}), 0) {source}"
    ((count, size_bytes),) = duck.execute(size, params).fetchall()
    if count > MAX_EXPORT_SAMPLES or size_bytes > MAX_EXPORT_BYTES:
        raise TooLarge(
            "too many samples match",
            why=f"{count} samples of {size_bytes} bytes; {MAX_EXPORT_SAMPLES} and {MAX_EXPORT_BYTES} are allowed",
            hint="choose a device, a reason or a release",
        )
    found = duck.execute(f"select {_ROW}, {_REST} {source} {_ORDER}", params).fetchall()
    return [_sample(row) for row in found]


def _sample(found: Sequence[Any]) -> FullSample:
    row = _row(found[:15])
    data, datatype, shape, output, weight, redaction, schema, sealed_for, sealed = found[15:]
    return FullSample(
        row,
        SampleTensor(row.datatype, row.shape, data),
        SampleTensor(datatype or "", tuple(shape or ()), output or b""),
        weight=weight or None,
        redaction=redaction or "",
        schema=schema or "",
        sealed_for=sealed_for or "",
        sealed=sealed or b"",
    )


def _row(found: Sequence[Any]) -> SampleRow:
    device, stream, seq, model, release, digest, time_us, reason, score, inclusion, *rest = found
    request_id, predicted, datatype, shape, input_bytes = rest
    return SampleRow(
        id=f"{device}/{stream}/{seq}",
        device=device,
        model=model,
        release=release,
        digest=digest,
        time=_moment(time_us),
        reason=reason,
        score=score,
        inclusion=inclusion,
        request_id=request_id,
        predicted=predicted,
        datatype=datatype,
        shape=tuple(shape),
        input_bytes=input_bytes,
    )


def _moment(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
