"""Data sets: named, immutable versions of labelled samples, and the models that were built of them.

A version is its manifest (:mod:`.dataset_manifest`) and what it was made by: the version of the
lake's table, the query, the policy, the version of the classes. It is stored in one transaction; what gives the same
manifest as the newest version is that version. Tensors stay in the lake, past the days of other samples
(:mod:`.keeping`), and are checked against the manifest whenever they are read. What was erased leaves the store: every
data set that held it gets a new version without it.
"""

import builtins
import json
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, select

from dsops import ids
from dsops.clock import Clock
from dsops.errors import Conflict, InvalidInput, NotFound, StateDamaged
from dsops_controller import audit
from dsops_controller.dataops.datasets import dataset_rows
from dsops_controller.dataops.datasets.dataset_manifest import (
    Change,
    GroupBy,
    Labelled,
    Left,
    Member,
    Places,
    Policy,
    Shares,
    Split,
    counts,
    difference,
    digest_of,
    encode,
    members,
)
from dsops_controller.dataops.datasets.dataset_rows import DatasetRecord
from dsops_controller.dataops.datasets.keeping import Keeping, Kept
from dsops_controller.dataops.labels.labels import LabelRow, Labels
from dsops_controller.dataops.lake.erasing import erase
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.samples.exports import content_id
from dsops_controller.dataops.samples.sample_reading import FullSample, SampleReader, identity
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.times import to_ms

_SECRET_BYTES = 32
_SOME = 400
_LOCK = 0x64736F7074  # of whoever pins or unpins versions of the table for data sets


@dataclass(frozen=True, slots=True)
class Query:
    """Which labelled samples are candidates; ``None`` means any.

    Attributes:
        since: Captured at or after.
        until: Captured before.
        set_version: Only labels that were given by this version of the classes or a later one.
    """

    model: str
    device: str | None = None
    reason: str | None = None
    release: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    set_version: int | None = None

    def admits(self, row: LabelRow) -> bool:
        """Whether a labelled sample is a candidate."""
        wanted = ((self.device, row.device), (self.reason, row.reason), (self.release, row.release))
        in_time = (self.since is None or row.captured >= self.since) and (
            self.until is None or row.captured < self.until
        )
        return in_time and all(want in (None, have) for want, have in wanted)

    def stored(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: samples that are gone, and new versions of the data sets that held them."""

    samples: int
    versions: tuple[str, ...]


class Datasets:
    """Makes, shows and compares data sets, and erases samples."""

    def __init__(self, db: Database, lake: Lake, reader: SampleReader, labels: Labels, clock: Clock) -> None:
        self._db = db
        self._lake = lake
        self._reader = reader
        self._labels = labels
        self._clock = clock
        self._keeping = Keeping(lake, Pins(lake, clock))

    def create(self, name: str, query: Query, policy: Policy, actor: str = audit.SYSTEM) -> tuple[DatasetRecord, bool]:
        """Return the data set of what is labelled now, and whether it is a new version.

        Raises:
            NotFound: No sample matches, or none has a label that counts.
            InvalidInput: The name cannot be one, or nothing falls to training.
        """
        _check_name(name)
        with self._db.alone(_LOCK):  # an erasure takes what is pinned now, and looks at no version that comes later
            self._lake.flush()  # so that a version of the table names every row
            lake_version = self._keeping.hold(name)
            try:
                return self._create(name, query, policy, lake_version, actor)
            finally:
                self._keeping.settle(name, self._kept(name))

    def _create(
        self, name: str, query: Query, policy: Policy, lake_version: int, actor: str
    ) -> tuple[DatasetRecord, bool]:
        wanted = self._labels.newest_set(query.model)
        given: dict[str, dict[str, str]] = {}
        for row in self._labels.current(query.model, query.set_version):
            if query.admits(row) and not wanted.fault(row.label):
                given.setdefault(row.sample, {})[row.labeller] = row.label
        found, left = members(self._reader.named(given), given, policy, self.places())
        _check_members(found, left)
        made_by = {"query": query.stored(), "policy": asdict(policy)}
        about = {"model": query.model, "lake_version": lake_version, "set_version": wanted.version, "query": made_by}
        with self._db.write() as connection:
            return self._store(connection, name, found, about | {"left": left}, actor)

    def renew(self, name: str, actor: str = audit.SYSTEM) -> DatasetRecord:
        """Return what the newest version's query and policy give of what is labelled now: perhaps a new version.

        Raises:
            NotFound: There is no such data set, or no sample matches any more.
        """
        newest = self.get(name)
        return self.create(name, stored_query(newest.made_by), stored_policy(newest.made_by), actor)[0]

    def named(self, text: str) -> DatasetRecord:
        """Return the version that ``NAME/VERSION`` names, or the newest of ``NAME``.

        Raises:
            InvalidInput: It is neither.
            NotFound: There is none.
        """
        return self.get(*reference(text))

    def list(self) -> builtins.list[DatasetRecord]:
        """Return every version of every data set, by name, the newest first."""
        column = tables.dataset.c
        with self._db.read() as connection:
            rows = connection.execute(select(tables.dataset).order_by(column.name, column.version.desc())).all()
            erased, removed = dataset_rows.erased(connection), dataset_rows.removed(connection)
        return [dataset_rows.record(row, erased, removed) for row in rows]

    def remove(self, name: str, version: int, actor: str = audit.SYSTEM) -> DatasetRecord:
        """Keep the samples of a version no longer than others; its manifest stays, for what was built of it.

        Once more is no fault, and completes what a crash cut off.

        Raises:
            NotFound: There is none.
            StateDamaged: The lake cannot be written.
        """
        with self._db.alone(_LOCK):
            with self._db.write() as connection:
                row, now = dataset_rows.row(connection, name, version), self._clock.now()
                if (name, row.version) not in dataset_rows.removed(connection):
                    values = {"name": name, "version": row.version, "removed_ms": to_ms(now)}
                    connection.execute(tables.dataset_removal.insert().values(values))
                    audit.record(connection, now, actor, "dataset.removed", f"{name}/{row.version}", row.digest)
            self._keeping.remove(name, row.version)
        return self.get(name, row.version)

    def unpin(self, owner: str, actor: str = audit.SYSTEM) -> None:
        """Give up what a controller with another database has pinned; see :meth:`Keeping.give_up`."""
        with self._db.alone(_LOCK):
            self._keeping.give_up(owner)
            with self._db.write() as connection:
                audit.record(connection, self._clock.now(), actor, "store.unpinned", owner[:160])

    def get(self, name: str, version: int | None = None) -> DatasetRecord:
        """Return one version; without a number the newest.

        Raises:
            NotFound: There is none.
        """
        with self._db.read() as connection:
            return dataset_rows.record(
                dataset_rows.row(connection, name, version),
                dataset_rows.erased(connection),
                dataset_rows.removed(connection),
            )

    def manifest(self, name: str, version: int | None = None) -> bytes:
        """Return the manifest of a version, whose SHA-256 is its digest.

        Raises:
            NotFound: There is none.
            StateDamaged: It is not what was stored.
        """
        with self._db.read() as connection:
            return dataset_rows.manifest(dataset_rows.row(connection, name, version))

    def members(self, name: str, version: int | None = None) -> builtins.list[Member]:
        """Return the members of a version, in the order of its manifest. Errors as of :meth:`manifest`."""
        with self._db.read() as connection:
            return dataset_rows.members(dataset_rows.row(connection, name, version))

    def samples(self, name: str, version: int | None = None, split: Split | None = None) -> builtins.list[FullSample]:
        """Return the samples of a version, or of one split, in the order of its manifest.

        Raises:
            NotFound: There is no such version.
            Conflict: Some of its samples are not in the store any more.
            StateDamaged: A sample is not what the manifest says.
        """
        with self._db.read() as connection:
            number = int(dataset_rows.row(connection, name, version).version)
        wanted = [one for one in self.members(name, number) if split in (None, one.split)]
        stored = {sample.row.id: sample for sample in self._reader.named(member.record for member in wanted)}
        for pinned in self._keeping.versions(name, number):
            if lacking := [member.record for member in wanted if member.record not in stored]:
                stored |= {sample.row.id: sample for sample in self._reader.named(lacking, pinned)}
        self._check_stored(f"{name}/{number}", [one.record for one in wanted if one.record not in stored])
        for member in wanted:
            if content_id(stored[member.record].input.data) != member.content:
                raise StateDamaged(f"sample {member.record} is not what the data set holds")
        return [stored[member.record] for member in wanted]

    def _check_stored(self, what: str, missing: Sequence[str]) -> None:
        if not missing:
            return
        erased = len(self._reader.erased() & set(missing))
        over = len(missing) - erased
        why = [f"{erased} were erased, which data sets cannot prevent"] if erased else []
        why += [f"the time of {over} was over after the data set was removed"] if over else []
        raise Conflict(
            f"{len(missing)} samples of {what} are not in the store any more",
            why=f"{', '.join(why)}: {', '.join(missing[:3])}",
            hint=f"export the newest version, or make one: dsops dataset create {what.partition('/')[0]}",
        )

    def _kept(self, name: str | None = None) -> builtins.list[Kept]:
        """Return the versions whose samples are to stay, of one data set or of all."""
        column = tables.dataset.c
        query = select(column.name, column.version, column.lake_version, column.records)
        with self._db.read() as connection:
            erased, removed = dataset_rows.erased(connection), dataset_rows.removed(connection)
            rows = connection.execute(query if name is None else query.where(column.name == name)).all()
        found = [(row, dataset_rows.records(row)) for row in rows if (row.name, row.version) not in removed]
        return [
            Kept(row.name, row.version, row.lake_version, [identity(record) for record in records])
            for row, records in found
            if erased.isdisjoint(records)
        ]

    def difference(self, before: tuple[str, int | None], after: tuple[str, int | None]) -> Change:
        """Return how one version differs from another. Errors as of :meth:`manifest`."""
        return difference(self.members(*before), self.members(*after))

    def erase(self, samples: Sequence[str], reason: str, actor: str = audit.SYSTEM) -> Erased:
        """Take samples out of everything that dsops shows and exports, and out of the data sets' newest versions.

        Their labels are deleted, and their rows in the lake. Once more is no fault, and completes what a crash cut off.
        Older versions keep the digests of what they held, and cannot be exported any more. No pin of ours has the rows:
        what data sets need beside them moves to a version of the table that has them not.

        Raises:
            InvalidInput: One is no id, or there is no reason.
            Conflict: A data set of a controller with another database needs a version of the table that has one.
            NoSpace: The lake cannot be written; nothing shows the samples any more, their rows are still there.
        """
        if not 0 < len(reason) <= 200:
            raise InvalidInput("an erasure needs a reason", hint="for example --reason 'request of 2026-11-27'")
        identities = [identity(sample) for sample in samples]
        with self._db.alone(_LOCK):
            self._keeping.check_foreign(identities)
            done = self._note_erased(samples, reason, actor)
            erase(self._lake, identities)
            moved = self._keeping.let_go(identities, self._kept())
            with self._db.write() as connection:
                dataset_rows.note_moved(connection, moved)
        return done

    def _note_erased(self, samples: Sequence[str], reason: str, actor: str) -> Erased:
        with self._db.write() as connection:
            new = sorted(set(samples) - dataset_rows.erased(connection))
            now = self._clock.now()
            rows = [{"sample": sample, "reason": reason, "erased_ms": to_ms(now)} for sample in new]
            if rows:
                connection.execute(tables.erased_sample.insert(), rows)
                audit.record(connection, now, actor, "samples.erased", f"{len(rows)} samples", reason)
            _forget_labels(connection, new)
            return Erased(len(new), tuple(self._renew(connection, set(new), actor)))

    def places(self) -> Places:
        """Return what is known of devices, with the secret of their pseudonyms, which is made when it is not there."""
        with self._db.write() as connection:
            secret = connection.execute(select(tables.pseudonym_secret.c.secret)).scalar_one_or_none()
            if secret is None:
                secret = secrets.token_bytes(_SECRET_BYTES)
                connection.execute(tables.pseudonym_secret.insert().values(id=1, secret=secret))
            rows = connection.execute(select(tables.device.c.id, tables.device.c.inventory)).all()
        sites = {row.id: str(json.loads(row.inventory).get("site", "")) for row in rows}
        return Places(sites, bytes(secret))

    def _renew(self, connection: Connection, gone: set[str], actor: str) -> builtins.list[str]:
        """Store a new version of each data set whose newest one holds what is gone; return their names."""
        column = tables.dataset.c
        newest = select(column.name, func.max(column.version).label("version")).group_by(column.name)
        made = []
        for name, version in connection.execute(newest).all():
            row = dataset_rows.row(connection, name, version)
            have = dataset_rows.members(row)
            kept = [member for member in have if member.record not in gone]
            if len(kept) < len(have):
                left = Left(**json.loads(row.summary)["left_out"])
                about = {"model": row.model, "lake_version": row.lake_version, "set_version": row.set_version}
                about |= {"query": json.loads(row.query) | {"erased_since": f"{name}/{version}"}, "left": left}
                made.append(self._store(connection, name, kept, about, actor)[0].reference)
        return made

    def _store(
        self, connection: Connection, name: str, found: Sequence[Member], about: dict[str, Any], actor: str
    ) -> tuple[DatasetRecord, bool]:
        manifest = encode(found)
        digest = digest_of(manifest)
        column = tables.dataset.c
        query = select(tables.dataset).where(column.name == name).order_by(column.version.desc()).limit(1)
        newest = connection.execute(query).one_or_none()
        if newest is not None and newest.digest == digest:
            _keep_again(connection, newest, about["lake_version"])
            return dataset_rows.told(connection, newest), False
        if newest is not None and newest.model != about["model"]:
            raise Conflict(f"data set {name} is of {newest.model}", hint="give the new one another name")
        version, now = (newest.version if newest is not None else 0) + 1, self._clock.now()
        groups = {split.value: len({m.line["group"] for m in found if m.split is split}) for split in Split}
        summary = {
            "samples": len(found),
            "counts": counts(found),
            "left_out": asdict(about["left"]),
            "groups": groups,
        }
        connection.execute(
            tables.dataset.insert().values(
                name=name,
                version=version,
                digest=digest,
                model=about["model"],
                lake_version=about["lake_version"],
                set_version=about["set_version"],
                query=json.dumps(about["query"]),
                summary=json.dumps(summary),
                manifest=zlib.compress(manifest),
                records=zlib.compress("\n".join(member.record for member in found).encode()),
                created_ms=to_ms(now),
            )
        )
        audit.record(connection, now, actor, "dataset.created", f"{name}/{version}", digest)
        return dataset_rows.record(
            dataset_rows.row(connection, name, version),
            dataset_rows.erased(connection),
            dataset_rows.removed(connection),
        ), True


def reference(text: str) -> tuple[str, int | None]:
    """Return name and version of ``NAME`` or ``NAME/VERSION``.

    Raises:
        InvalidInput: It is neither.
    """
    name, slash, version = text.partition("/")
    if slash and not (version.isascii() and version.isdecimal() and 0 < int(version) < 2**31):
        raise InvalidInput(f"{text[:80]!r} is not NAME or NAME/VERSION", hint="see: dsops dataset list")
    return name, int(version) if slash else None


def stored_query(made_by: dict[str, Any]) -> Query:
    """Return the query by which a version was made."""
    told = made_by["query"]
    times = {name: datetime.fromisoformat(told[name]) for name in ("since", "until") if told[name]}
    return Query(**told | times)


def stored_policy(made_by: dict[str, Any]) -> Policy:
    """Return the policy by which a version was made."""
    told = made_by["policy"]
    return Policy(
        labelled=Labelled(told["labelled"]),
        fewest=told["fewest"],
        excluded=tuple(told["excluded"]),
        group_by=GroupBy(told["group_by"]),
        shares=Shares(**told["shares"]),
    )


def _keep_again(connection: Connection, row: AnyRow, lake_version: int) -> None:
    """Undo that a version was removed: what it pinned may be gone, so it pins what it was found in now."""
    column = tables.dataset_removal.c
    which = (column.name == row.name) & (column.version == row.version)
    if connection.execute(delete(tables.dataset_removal).where(which)).rowcount:
        dataset_rows.note_moved(connection, {(row.name, row.version): lake_version})


def _check_name(name: str) -> None:
    try:
        ids.model_name(name)
    except InvalidInput as error:
        raise InvalidInput(
            f"{name[:80]!r} is not a name for a data set", why="it has 1 to 63 of a-z 0-9 -", hint="for example field-a"
        ) from error


def _check_members(found: Sequence[Member], left: Left) -> None:
    if not found:
        raise NotFound(
            "no labelled sample matches",
            why=f"{left.unlabelled} have no label that counts" if left.unlabelled else "",
            hint="see: dsops sample label list MODEL",
        )
    if not any(member.split is Split.TRAINING for member in found):
        raise InvalidInput(
            "no sample falls to training",
            why="all samples of a group stay together, and the hash of each group decides",
            hint="lower the shares (--validation 0 --test 0), or group by device",
        )


def _forget_labels(connection: Connection, samples: Sequence[str]) -> None:
    for start in range(0, len(samples), _SOME):
        some = samples[start : start + _SOME]
        connection.execute(delete(tables.label).where(tables.label.c.sample.in_(some)))
        connection.execute(delete(tables.labelled_sample).where(tables.labelled_sample.c.sample.in_(some)))
