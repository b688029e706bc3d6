"""Drift of a fleet as operators see it: the state of each model, the worst devices, and a report over a period.

Pure but for :class:`FleetView`, which reads: the newest from the state database, a period from the lake's table of
reports, and profiles from the bundles.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from dsops.api.v1.telemetry_pb2 import DriftReport, SignalReport
from dsops.errors import InvalidInput
from dsops.profile import Profile, Signal
from dsops_controller.dataops import queries
from dsops_controller.dataops.drift.device_drift import Level
from dsops_controller.dataops.drift.fleet_drift import FDR, FleetTest, Merged, drifted
from dsops_controller.dataops.drift.standing import Standing, Standings
from dsops_controller.dataops.history import Span
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.views import Views, Want
from dsops_controller.db.database import Database

MAX_REPORTS = 100_000
"""Reports with counts that one answer adds up."""
_BATCH = 1000
_MOST_BINS = 3
_LEAST_CHANGE = 0.02


class Bundles(Protocol):
    """Tells of bundles by their digest."""

    def profile(self, digest: str) -> Profile | None:
        """Return the profile; None when the controller does not have it."""
        ...

    def labels(self, digest: str) -> Sequence[str]:
        """Return the names of the classes; none when the controller does not have the bundle."""
        ...


@dataclass(frozen=True, slots=True)
class ModelDrift:
    """How one model stands over the fleet now.

    Attributes:
        devices: Devices that watch it, and were heard of lately.
        stale: Others, which count in nothing else: nothing was heard of their drift for a week.
        states: How many of them are at each level.
        skewed: How many found that their first frames were not the profile's.
        drifted: Those that have drifted, surest first, of which a share of ``fdr`` at most is wrong (e-BH).
        fdr: That share.
    """

    model: str
    devices: int
    stale: int
    states: Mapping[str, int]
    skewed: int
    drifted: tuple[str, ...]
    fdr: float

    @property
    def share(self) -> float:
        """Share of the devices that have drifted."""
        return len(self.drifted) / self.devices if self.devices else 0.0


@dataclass(frozen=True, slots=True)
class BinChange:
    """A bin whose share of the frames changed."""

    bin: str
    expected: float
    seen: float


@dataclass(frozen=True, slots=True)
class SignalChange:
    """One signal of a bundle over a period, all devices added up, against the profile.

    Attributes:
        frames: Frames in the merged histogram.
        statistic: Chi-square of two samples; the variance of noise stands in its denominator.
        freedom: Its degrees of freedom.
        p_value: Not corrected.
        noise_variance: Of the noise in each merged count.
        is_different: Whether it differs at the level that is corrected for the number of signals.
        changes: Bins whose share changed most.
        expected: Share of each bin in the profile.
        seen: Likewise in the period.
    """

    signal: str
    frames: int
    statistic: float
    freedom: int
    p_value: float
    noise_variance: float
    is_different: bool
    changes: tuple[BinChange, ...]
    expected: tuple[float, ...]
    seen: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BundleDrift:
    """One bundle over a period.

    Attributes:
        devices: Devices that reported.
        states: How many of them were at each level in their last report of the period.
        alarmed: How many were at level ``drift`` at any time in it.
        skewed: How many found skew.
        reports: Reports; ``counted`` of them had counts, of ``frames`` frames.
        p_value: Smallest of the signals, corrected for their number; None without a profile or counts.
        signals: Most different first; empty without a profile.
        why_no_test: Why there is none; empty when there is one.
    """

    release: int
    digest: str
    devices: int
    states: Mapping[str, int]
    alarmed: int
    skewed: int
    reports: int
    counted: int
    frames: int
    p_value: float | None
    signals: tuple[SignalChange, ...]
    why_no_test: str


def by_model(standings: Iterable[Standing], now: datetime, fdr: float = FDR) -> list[ModelDrift]:
    """Return how each model stands, the one with the largest share of drifted devices first.

    What was not heard of for :data:`~.standing.STALE_AFTER` counts as stale and in nothing else.
    """
    found: dict[str, list[Standing]] = {}
    for one in standings:
        found.setdefault(one.model, []).append(one)
    models = [_model(model, rows, now, fdr) for model, rows in found.items()]
    return sorted(models, key=lambda one: (-one.share, -one.states[Level.DRIFT], one.model))


def changes(signal: Signal, counts: Sequence[float], labels: Sequence[str] = ()) -> tuple[BinChange, ...]:
    """Return the bins whose share changed most, those that hardly changed left out."""
    expected, seen = _shares(signal.counts), _shares(counts)
    order = sorted(range(len(seen)), key=lambda at: -abs(seen[at] - expected[at]))[:_MOST_BINS]
    told = [at for at in order if abs(seen[at] - expected[at]) >= _LEAST_CHANGE]
    return tuple(BinChange(signal.name_of(at, labels), expected[at], seen[at]) for at in told)


class FleetView:
    """Reads what is told of a fleet's drift. Safe for use by several threads."""

    def __init__(self, db: Database, lake: Lake, bundles: Bundles) -> None:
        self.standings = Standings(db)
        self._views = Views(db, lake)
        self._bundle_facts = bundles

    def models(self, now: datetime, model: str | None = None, fdr: float = FDR) -> list[ModelDrift]:
        """Return how each model stands now.

        Raises:
            StateDamaged: The database cannot be read.
        """
        return by_model(self.standings.newest(model), now, fdr)

    def report(self, model: str, span: Span, device: str | None = None) -> list[BundleDrift]:
        """Return what devices reported of a model in a period, newest release first.

        Raises:
            InvalidInput: The period has too many reports.
            StateDamaged: The lake or the database cannot be read.
        """
        scope = span.scope(model, device)
        params = scope.params()
        with self._views.open(Want(LakeTable.DRIFT, scope)) as duck:
            devices = duck.execute(queries.DRIFT_DEVICES, params).fetchall()
            ((count,),) = duck.execute(queries.DRIFT_SIZE, params).fetchall()
            if count > MAX_REPORTS:
                raise InvalidInput(
                    f"the period has {count} reports", why=f"{MAX_REPORTS} are allowed", hint="ask for a shorter one"
                )
            profiles = {digest: self._bundle_facts.profile(digest) for digest in {row[0] for row in devices}}
            sums = {digest: Merged(profile) for digest, profile in profiles.items() if profile is not None}
            duck.execute(queries.DRIFT_COUNTS, params)
            while rows := duck.fetchmany(_BATCH):
                for digest, *values in rows:
                    if digest in sums:
                        sums[digest].add(_report(*values))
        return _by_bundle(devices, sums, self._bundle_facts)


def last(span: timedelta, now: datetime) -> Span:
    """Return the newest period of a length, the present minute included."""
    return Span(now - span, now + timedelta(minutes=1))


def _model(model: str, every: Sequence[Standing], now: datetime, fdr: float) -> ModelDrift:
    rows = [one for one in every if one.counts(now)]
    return ModelDrift(
        model=model,
        devices=len(rows),
        stale=len(every) - len(rows),
        states={level.value: sum(one.level is level for one in rows) for level in Level},
        skewed=sum(one.skew.state == "skew" for one in rows),
        drifted=drifted({one.device: one.log_e for one in rows}, fdr),
        fdr=fdr,
    )


def _by_bundle(devices: Sequence[Sequence[Any]], sums: Mapping[str, Merged], bundles: Bundles) -> list[BundleDrift]:
    found: dict[str, list[Sequence[Any]]] = {}
    for row in devices:
        found.setdefault(row[0], []).append(row)
    made = [_bundle(rows, sums.get(digest), bundles.labels(digest)) for digest, rows in found.items()]
    return sorted(made, key=lambda one: (-one.release, one.digest))


def _bundle(rows: Sequence[Sequence[Any]], merged: Merged | None, labels: Sequence[str]) -> BundleDrift:
    test = None if merged is None else merged.test()
    reason = "the controller does not have the bundle's profile" if test is None else ""
    if test is not None and not test.reports:
        reason = "no report had counts: devices hold them back until they have enough frames"
    has_test = test is not None and bool(test.reports)
    return BundleDrift(
        release=rows[0][1],
        digest=rows[0][0],
        devices=len(rows),
        states={level.value: sum(row[3] == level for row in rows) for level in Level},
        alarmed=sum(bool(row[4]) for row in rows),
        skewed=sum(bool(row[5]) for row in rows),
        reports=sum(row[6] for row in rows),
        counted=test.reports if test is not None else 0,
        frames=test.frames if test is not None else 0,
        p_value=test.p_value if test is not None and has_test else None,
        signals=_signals(merged, test, labels) if merged is not None and test is not None else (),
        why_no_test=reason,
    )


def _signals(merged: Merged, test: FleetTest, labels: Sequence[str]) -> tuple[SignalChange, ...]:
    counts = merged.counts()
    found = []
    for name, one in test.signals.items():
        signal, seen, noise = counts[name]
        found.append(
            SignalChange(
                signal=name,
                frames=round(sum(seen)),
                statistic=one.statistic,
                freedom=one.freedom,
                p_value=one.p_value,
                noise_variance=noise,
                is_different=name in test.differing,
                changes=changes(signal, seen, labels),
                expected=_shares(signal.counts),
                seen=_shares(seen),
            )
        )
    return tuple(found)


def _shares(counts: Sequence[float]) -> tuple[float, ...]:
    positive = [max(float(count), 0.0) for count in counts]  # noise makes some negative
    total = sum(positive)
    return tuple(count / total if total else 0.0 for count in positive)


def _report(suppressed_below: int, epsilon: float | None, signals: str) -> DriftReport:
    made = [
        SignalReport(name=name, counts=one["counts"], thinning=one["thinning"])
        for name, one in json.loads(signals).items()
    ]
    return DriftReport(suppressed_below=suppressed_below, epsilon=epsilon or 0.0, signals=made)
