"""The versions of data sets as the state database has them."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from dsops.errors import NotFound, StateDamaged
from dsops_controller.dataops.datasets.dataset_manifest import Member, decode, digest_of
from dsops_controller.db import tables
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.times import from_ms


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """One version of a data set.

    Attributes:
        digest: SHA-256 of its manifest.
        lake_version: Version of the lake's table of samples that it was made of.
        set_version: Newest version of the classes then.
        made_by: Query and policy.
        samples: How many it has.
        counts: Samples by split and class.
        left_out: Candidates that it has not: without a label that counts, or equal to another.
        groups: Groups by split.
        gone: Samples of it that were erased since; it cannot be exported any more when there are any.
        is_kept: Whether its samples stay past their days: none was erased, and it was not removed.
    """

    name: str
    version: int
    digest: str
    model: str
    lake_version: int
    set_version: int
    made_by: dict[str, Any]
    samples: int
    counts: dict[str, dict[str, int]]
    left_out: dict[str, int]
    groups: dict[str, int]
    created: datetime
    gone: int = 0
    is_kept: bool = True

    @property
    def reference(self) -> str:
        """``NAME/VERSION``."""
        return f"{self.name}/{self.version}"


def erased(connection: Connection) -> set[str]:
    """Return the ids of samples that were erased."""
    return set(connection.execute(select(tables.erased_sample.c.sample)).scalars())


def removed(connection: Connection) -> set[tuple[str, int]]:
    """Return the name and number of versions that were removed."""
    column = tables.dataset_removal.c
    return {(row.name, row.version) for row in connection.execute(select(column.name, column.version))}


def note_moved(connection: Connection, moved: Mapping[tuple[str, int], int]) -> None:
    """Store which version of the table has the members of a data set now, by its name and version."""
    column = tables.dataset.c
    for row in connection.execute(select(column.name, column.version)).all():
        if (lake_version := moved.get((row.name, row.version))) is not None:
            which = (column.name == row.name) & (column.version == row.version)
            connection.execute(tables.dataset.update().where(which).values(lake_version=lake_version))


def row(connection: Connection, name: str, version: int | None) -> AnyRow:
    """Return the row of a version; without a number of the newest.

    Raises:
        NotFound: There is none.
    """
    column = tables.dataset.c
    query = select(tables.dataset).where(column.name == name).order_by(column.version.desc()).limit(1)
    if version is not None:
        query = query.where(column.version == version)
    found: AnyRow | None = connection.execute(query).one_or_none()
    if found is None:
        text = name if version is None else f"{name}/{version}"
        raise NotFound(f"there is no data set {text[:80]}", hint="see: dsops dataset list")
    return found


def manifest(row: AnyRow) -> bytes:
    """Return the manifest of a row.

    Raises:
        StateDamaged: It is not what was stored.
    """
    text = zlib.decompress(row.manifest)
    if digest_of(text) != row.digest:
        raise StateDamaged(f"the manifest of {row.name}/{row.version} is not what was stored")
    return text


def members(row: AnyRow) -> list[Member]:
    """Return the members of a row; raises as :func:`manifest`."""
    return decode(manifest(row), records(row))


def records(row: AnyRow) -> list[str]:
    """Return the ids of the samples of a row, in the order of its manifest."""
    return zlib.decompress(row.records).decode().splitlines()


def record(row: AnyRow, gone: set[str], given_up: set[tuple[str, int]]) -> DatasetRecord:
    """Return a row as what it says, given what was erased and removed."""
    summary = json.loads(row.summary)
    lost = sum(sample in gone for sample in records(row)) if gone else 0
    return DatasetRecord(
        name=row.name,
        version=row.version,
        digest=row.digest,
        model=row.model,
        lake_version=row.lake_version,
        set_version=row.set_version,
        made_by=json.loads(row.query),
        samples=summary["samples"],
        counts=summary["counts"],
        left_out=summary["left_out"],
        groups=summary["groups"],
        created=from_ms(row.created_ms),
        gone=lost,
        is_kept=not lost and (row.name, row.version) not in given_up,
    )


def told(connection: Connection, row: AnyRow) -> DatasetRecord:
    """Return a row as what it says."""
    return record(row, erased(connection), removed(connection))
