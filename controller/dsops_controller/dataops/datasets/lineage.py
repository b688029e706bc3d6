"""From data sets to the models that were built of them, and back.

A bundle's manifest names data by digest (``lineage.datasets``). That of a data set is its own; that of a data file, as
``dsops model build`` writes it, is a data set's when the file was exported from it here.
"""

from dataclasses import dataclass

from sqlalchemy import select

from dsops.clock import Clock
from dsops.manifest import Manifest
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.times import to_ms


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A bundle whose lineage names a data set.

    Attributes:
        purpose: What the lineage says it was used for.
        by: ``digest`` when it names the data set itself, else the form of the export that it names.
    """

    model: str
    release: int
    variant: str
    sha256: str
    purpose: str
    by: str


class Lineage:
    """Answers which models are of which data sets.

    Args:
        db: The state database.
        clock: Tells the time.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def models(self, digest: str) -> list[BuiltModel]:
        """Return the bundles whose lineage names a data set, by its digest or by a file that was exported of it."""
        column = tables.dataset_export.c
        with self._db.read() as connection:
            query = select(column.sha256, column.form).where(column.digest == digest)
            names = {row.sha256: str(row.form) for row in connection.execute(query)} | {digest: "digest"}
            bundles = connection.execute(select(tables.bundle)).all()
        found = []
        for row in bundles:
            for purpose, value in Manifest.decode(row.manifest.encode()).lineage.datasets.items():
                if value.removeprefix("sha256:") in names:
                    by = names[value.removeprefix("sha256:")]
                    found.append(BuiltModel(row.model, row.release, row.variant, row.sha256, purpose, by))
        return sorted(found, key=lambda one: (one.model, one.release, one.variant, one.purpose))

    def behind(self, manifest: Manifest) -> dict[str, str]:
        """Return the data sets (``NAME/VERSION``) behind a bundle by what its lineage says they were used for."""
        values = {name: value.removeprefix("sha256:") for name, value in manifest.lineage.datasets.items()}
        exported, stored = tables.dataset_export.c, tables.dataset.c
        with self._db.read() as connection:
            query = select(exported.sha256, exported.digest).where(exported.sha256.in_(values.values()))
            digests = {row.sha256: row.digest for row in connection.execute(query)}
            wanted = {*values.values(), *digests.values()}
            rows = connection.execute(
                select(stored.digest, stored.name, stored.version).where(stored.digest.in_(wanted))
            )
            names = {row.digest: f"{row.name}/{row.version}" for row in rows}
        found = {purpose: names.get(digests.get(value, value)) for purpose, value in values.items()}
        return {purpose: name for purpose, name in found.items() if name}

    def note_export(self, digest: str, sha256: str, split: str, form: str) -> None:
        """Remember that a file was made of a data set, so that a model that names the file leads back to it."""
        with self._db.write() as connection:
            column = tables.dataset_export.c
            there = select(column.sha256).where((column.sha256 == sha256) & (column.digest == digest))
            if connection.execute(there).one_or_none() is None:
                row = {"sha256": sha256, "digest": digest, "split": split, "form": form}
                connection.execute(tables.dataset_export.insert().values(**row, created_ms=to_ms(self._clock.now())))
