"""What labellers say of samples: classes by version, labels with their history, in the state database.

A label is a row that is never changed: who said what of which sample, when, by which version of the classes. The
newest of a labeller counts. The same row again is no second one, so an import can be repeated.
"""

import builtins
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select

from dsops import ids
from dsops.clock import Clock
from dsops.errors import Conflict, InvalidInput
from dsops_controller import audit
from dsops_controller.dataops.labels.agreement import Scale
from dsops_controller.dataops.labels.label_files import GivenLabel, Problems, given
from dsops_controller.dataops.labels.label_sets import LabelSet, check_set, newest_set, store_set, stored_sets
from dsops_controller.dataops.samples.sample_reading import identity
from dsops_controller.dataops.samples.samples import SampleRow
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.times import from_ms, to_ms

_AT_ONCE = 400

FindSamples = Callable[[Iterable[str]], Mapping[str, SampleRow]]


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What one labeller said of one sample, and what the device had said.

    Attributes:
        time: When it was labelled.
        captured: When the sample was taken.
        site: Of the device, when the sample was labelled first.
    """

    sample: str
    labeller: str
    label: str
    set_version: int
    time: datetime
    stored: datetime
    source: str
    device: str
    site: str
    model: str
    release: int
    reason: str
    predicted: str
    captured: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """What an import did: labels that are new, and labels that were there."""

    added: int
    unchanged: int


class Labels:
    """Takes and gives labels.

    Args:
        db: The state database.
        find: Returns samples of the store by id.
        clock: Tells the time.
    """

    def __init__(self, db: Database, find: FindSamples, clock: Clock) -> None:
        self._db = db
        self._find = find
        self._clock = clock

    def sets(self, model: str) -> tuple[LabelSet, ...]:
        """Return every version of a model's classes, the newest last; none before the first label."""
        with self._db.read() as connection:
            return stored_sets(connection, model)

    def newest_set(self, model: str) -> LabelSet:
        """Return what labels of a model may be now: the newest version, or the labels of its newest bundle.

        Raises:
            NotFound: Neither is there.
        """
        with self._db.read() as connection:
            return newest_set(connection, model, self._clock.now())

    def new_set(
        self, model: str, classes: Sequence[str], scale: Scale, guideline: str = "", actor: str = audit.SYSTEM
    ) -> LabelSet:
        """Store a new version of a model's classes; the same as the newest is that one.

        Raises:
            InvalidInput: A class is no text for a label, is there twice, or the scale is none for classes.
        """
        check_set(ids.model_name(model), classes, scale, guideline)
        with self._db.write() as connection:
            present = stored_sets(connection, model)
            made = LabelSet(model, len(present) + 1, scale, tuple(classes), guideline, self._clock.now())
            if present and (present[-1].scale, present[-1].classes, present[-1].guideline) == (
                made.scale,
                made.classes,
                made.guideline,
            ):
                return present[-1]
            store_set(connection, made)
            audit.record(connection, made.created, actor, "labels.classes", model, f"version {made.version}")
        return made

    def take(
        self, labels: Sequence[GivenLabel], model: str | None = None, actor: str = audit.SYSTEM, source: str = ""
    ) -> Taken:
        """Store labels, all or none; those that are there already are counted, not stored again.

        Raises:
            InvalidInput: A sample is not in the store, not of the model, or a label is no class; the text names places.
            NotFound: The classes of a model are not known.
        """
        found = self._find_all(labels)
        _check_samples(labels, found, model)
        with self._db.write() as connection:
            sets = {
                name: newest_set(connection, name, self._clock.now())
                for name in sorted({row.model for row in found.values()})
            }
            _check_classes(labels, found, sets)
            added = self._add(connection, labels, found, {name: one.version for name, one in sets.items()}, source)
            for one in sets.values() if added else ():
                if one.version not in {stored.version for stored in stored_sets(connection, one.model)}:
                    store_set(connection, one)
            if added:
                subject = model or ", ".join(sets)
                audit.record(connection, self._clock.now(), actor, "labels.taken", subject, f"{added} labels {source}")
        return Taken(added, len(labels) - added)

    def current(self, model: str, set_version: int | None = None) -> builtins.list[LabelRow]:
        """Return of each labeller and sample of a model the newest label, by sample and labeller.

        Args:
            model: Which model's samples.
            set_version: Only labels that were given by this version of the classes or a later one.
        """
        facts, said = tables.labelled_sample.c, tables.label.c
        query = _joined().where(facts.model == model).order_by(said.sample, said.labeller, said.time_ms, said.id)
        if set_version is not None:
            query = query.where(said.set_version >= set_version)
        with self._db.read() as connection:
            rows = connection.execute(query).all()
        newest = {(row.sample, row.labeller): row for row in rows}
        return [_label_row(row) for row in newest.values()]

    def history(self, sample: str) -> builtins.list[LabelRow]:
        """Return everything that was said of one sample, oldest first."""
        said = tables.label.c
        with self._db.read() as connection:
            rows = connection.execute(_joined().where(said.sample == sample).order_by(said.time_ms, said.id)).all()
        return [_label_row(row) for row in rows]

    def _find_all(self, labels: Sequence[GivenLabel]) -> Mapping[str, SampleRow]:
        problems = Problems()
        for label in labels:
            try:
                identity(label.sample)
                given(label.where, label.sample, label.labeller, label.label, label.time)
            except InvalidInput as error:
                problems.add(label.where, error.what)
        problems.check()
        return self._find({label.sample for label in labels})

    def _add(
        self,
        connection: Connection,
        labels: Sequence[GivenLabel],
        found: Mapping[str, SampleRow],
        versions: Mapping[str, int],
        source: str,
    ) -> int:
        now = self._clock.now()
        present = _present(connection, {label.sample for label in labels})
        _store_samples(connection, [found[sample] for sample in {label.sample for label in labels}])
        added = 0
        for label in labels:
            version = versions[found[label.sample].model]
            stored = present.setdefault((label.sample, label.labeller, version), {})
            time_ms = _moment_of(label, stored, to_ms(now))
            if time_ms is None:
                continue
            stored[time_ms] = label.label
            added += 1
            connection.execute(
                tables.label.insert().values(
                    sample=label.sample,
                    labeller=label.labeller,
                    label=label.label,
                    set_version=version,
                    time_ms=time_ms,
                    stored_ms=to_ms(now),
                    source=source[:160],
                )
            )
        return added


def _moment_of(label: GivenLabel, stored: Mapping[int, str], now_ms: int) -> int | None:
    """Return under which moment a label is stored; None when it is there already.

    A label without a time of its own is there when the labeller's newest is the same. With one it is there when one of
    that moment is the same; another one of the same moment contradicts it.
    """
    if label.time is None:
        if stored and stored[max(stored)] == label.label:
            return None
        return max(now_ms, max(stored, default=0) + 1)
    time_ms = to_ms(label.time)
    if time_ms not in stored:
        return time_ms
    if stored[time_ms] == label.label:
        return None
    raise Conflict(
        f"{label.where}: {label.labeller} gave {label.sample} another label at the same moment",
        why=f"{stored[time_ms]!r} is stored, and {label.label!r} is given",
        hint="give it a later time, or none",
    )


def _check_samples(labels: Sequence[GivenLabel], found: Mapping[str, SampleRow], model: str | None) -> None:
    problems = Problems()
    for label in labels:
        row = found.get(label.sample)
        if row is None:
            problems.add(label.where, f"there is no sample {label.sample}")
        elif model is not None and row.model != model:
            problems.add(label.where, f"sample {label.sample} is of {row.model}, not of {model}")
    problems.check()


def _check_classes(labels: Sequence[GivenLabel], found: Mapping[str, SampleRow], sets: Mapping[str, LabelSet]) -> None:
    problems = Problems()
    for label in labels:
        fault = sets[found[label.sample].model].fault(label.label)
        if fault:
            problems.add(label.where, fault)
    problems.check()


def _present(connection: Connection, samples: Iterable[str]) -> dict[tuple[str, str, int], dict[int, str]]:
    """Return what is stored of samples: by sample, labeller and version, the label by moment."""
    found: dict[tuple[str, str, int], dict[int, str]] = {}
    said = tables.label.c
    for some in _slices(sorted(samples)):
        rows = connection.execute(select(tables.label).where(said.sample.in_(some)))
        for row in rows:
            found.setdefault((row.sample, row.labeller, row.set_version), {})[row.time_ms] = row.label
    return found


def _store_samples(connection: Connection, rows: Sequence[SampleRow]) -> None:
    column = tables.labelled_sample.c
    there: set[str] = set()
    for some in _slices([row.id for row in rows]):
        there.update(connection.execute(select(column.sample).where(column.sample.in_(some))).scalars())
    new = [row for row in rows if row.id not in there]
    sites = _sites(connection, {row.device for row in new})
    values = [
        {
            "sample": row.id,
            "device": row.device,
            "site": sites.get(row.device, ""),
            "model": row.model,
            "release": row.release,
            "digest": row.digest,
            "reason": row.reason,
            "predicted": row.predicted,
            "time_ms": to_ms(row.time),
        }
        for row in new
    ]
    if values:
        connection.execute(tables.labelled_sample.insert(), values)


def _sites(connection: Connection, devices: set[str]) -> dict[str, str]:
    column = tables.device.c
    found: dict[str, str] = {}
    for some in _slices(sorted(devices)):
        for row in connection.execute(select(column.id, column.inventory).where(column.id.in_(some))):
            found[row.id] = str(json.loads(row.inventory).get("site", ""))[:64]
    return found


def _slices(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[place : place + _AT_ONCE] for place in range(0, len(names), _AT_ONCE))


def _joined() -> Select[Any]:
    facts, said = tables.labelled_sample.c, tables.label.c
    columns = (facts.device, facts.site, facts.model, facts.release, facts.reason, facts.predicted)
    return select(tables.label, *columns, facts.time_ms.label("captured_ms")).join(
        tables.labelled_sample, facts.sample == said.sample
    )


def _label_row(row: AnyRow) -> LabelRow:
    return LabelRow(
        sample=row.sample,
        labeller=row.labeller,
        label=row.label,
        set_version=row.set_version,
        time=from_ms(row.time_ms),
        stored=from_ms(row.stored_ms),
        source=row.source,
        device=row.device,
        site=row.site,
        model=row.model,
        release=row.release,
        reason=row.reason,
        predicted=row.predicted,
        captured=from_ms(row.captured_ms),
    )


def count_since(connection: Connection, model: str, since_ms: int) -> int:
    """Return how many samples of a model got their first label after a moment."""
    facts, said = tables.labelled_sample.c, tables.label.c
    joined = tables.label.join(tables.labelled_sample, facts.sample == said.sample)
    first = select(func.min(said.stored_ms).label("first")).select_from(joined).where(facts.model == model)
    inner = first.group_by(said.sample).subquery()
    return int(connection.execute(select(func.count()).where(inner.c.first > since_ms)).scalar_one())
