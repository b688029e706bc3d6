"""Drift: one device explained, the fleet's worst, and a report over a period."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from dsops import ids
from dsops.errors import NotFound
from dsops.manifest import Frozen
from dsops_controller.dataops.drift.device_drift import Level
from dsops_controller.dataops.drift.fleet_drift import FDR
from dsops_controller.dataops.drift.fleet_view import BundleDrift, last
from dsops_controller.dataops.drift.standing import Standing
from dsops_controller.dataops.history import Span
from dsops_controller.dataops.samples.samples import SampleFilter
from dsops_controller.server.rest.backend import Backend

SAMPLES = 20
EVENTS = 200
Fdr = Annotated[float, Query(gt=0, lt=1)]


class SkewView(Frozen):
    """What a device's check of its first frames found."""

    state: str
    frames: int
    p_value: float
    signals: tuple[str, ...]


class SignalView(Frozen):
    """One signal on one device: its largest e-CUSUM (logarithm), and which bins changed since the onset."""

    cusum: float
    thinning: int


class StandingView(Frozen):
    """Drift of one model on one device."""

    device: str
    model: str
    release: int
    digest: str
    level: Level
    since: datetime
    onset: datetime | None
    score: float
    log_e: float
    p_value: float
    frames: int
    epoch_frames: int
    reported: datetime | None
    heard: datetime
    skew: SkewView
    signals: dict[str, SignalView]


class BinView(Frozen):
    """A bin whose share of the frames changed."""

    bin: str
    expected: float
    seen: float


class ChangeView(Frozen):
    """One signal over a period against the profile."""

    signal: str
    frames: int
    statistic: float
    freedom: int
    p_value: float
    noise_variance: float
    is_different: bool
    changes: tuple[BinView, ...]
    expected: tuple[float, ...]
    seen: tuple[float, ...]


class StandingDetail(StandingView):
    """The same with what explains it.

    ``message`` is what the device said at the newest change of level; ``changes`` compares its reports since the onset
    (or of the last day) with the profile; ``samples`` are the newest that it kept since then because of drift.
    """

    message: str
    changes: tuple[ChangeView, ...]
    why_no_test: str
    samples: tuple[str, ...]


class ModelView(Frozen):
    """One model over the fleet now; of ``drifted`` a share of ``fdr`` at most is wrong, on average (e-BH).

    ``stale`` devices were not heard of for a week, and are in none of the other numbers.
    """

    model: str
    devices: int
    stale: int
    states: dict[str, int]
    skewed: int
    drifted: tuple[str, ...]
    share: float
    fdr: float


class Top(Frozen):
    """The fleet's worst."""

    models: tuple[ModelView, ...]
    devices: tuple[StandingView, ...]


class BundleView(Frozen):
    """One bundle over a period, all devices added up; ``p_value`` is corrected for the number of signals."""

    release: int
    digest: str
    devices: int
    states: dict[str, int]
    alarmed: int
    skewed: int
    reports: int
    counted: int
    frames: int
    p_value: float | None
    signals: tuple[ChangeView, ...]
    why_no_test: str


class Report(Frozen):
    """A model over a period, and how it stands now."""

    model: str
    since: datetime
    until: datetime
    now: ModelView | None
    bundles: tuple[BundleView, ...] = Field(default=())


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/drift", tags=["drift"])
    fleet = backend.fleet

    @routes.get("/show")
    def show(device: str, model: str | None = None) -> list[StandingDetail]:
        found = fleet.standings.newest(model, ids.device_id(device))
        if not found:
            raise NotFound(f"nothing is known of drift on {device}", hint="see: dsops drift top")
        return [_detail(backend, one) for one in found]

    @routes.get("/top")
    def top(model: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 20, fdr: Fdr = FDR) -> Top:
        models = [
            ModelView.model_validate(one, from_attributes=True) for one in fleet.models(backend.clock.now(), model, fdr)
        ]
        worst = fleet.standings.newest(model)[:limit]
        return Top(models=tuple(models), devices=tuple(_view(one) for one in worst))

    @routes.get("/report")
    def report(model: str, since: datetime | None = None, until: datetime | None = None, fdr: Fdr = FDR) -> Report:
        end = until or backend.clock.now() + timedelta(minutes=1)
        span = Span(since or end - timedelta(days=1), end)
        bundles = [_bundle(one) for one in fleet.report(ids.model_name(model), span)]
        found = fleet.models(backend.clock.now(), model, fdr)
        now = [ModelView.model_validate(one, from_attributes=True) for one in found]
        if not bundles and not now:
            raise NotFound(f"nothing was reported of the drift of {model}", hint="see: dsops drift top")
        return Report(
            model=model, since=span.since, until=span.until, now=now[0] if now else None, bundles=tuple(bundles)
        )

    return routes


def _detail(backend: Backend, one: Standing) -> StandingDetail:
    begun = one.onset or (one.since if one.level is not Level.OK else None)
    now = backend.clock.now()
    is_past = begun is not None and begun < now - timedelta(minutes=1)
    span = Span(begun, now + timedelta(minutes=1)) if begun is not None and is_past else last(timedelta(days=1), now)
    found = backend.fleet.report(one.model, span, one.device)
    bundle = next((made for made in found if made.digest == one.digest), None)
    which = SampleFilter(one.model, one.device, "drift", since=begun)
    samples = backend.store.samples(which, SAMPLES) if begun is not None else []
    return StandingDetail(
        **_view(one).model_dump(),
        message=_message(backend, one),
        changes=_bundle(bundle).signals if bundle is not None else (),
        why_no_test=bundle.why_no_test if bundle is not None else "the device sent no report since then",
        samples=tuple(row.id for row in samples),
    )


def _message(backend: Backend, one: Standing) -> str:
    events = backend.store.events(one.device, limit=EVENTS)
    ours = (row for row in events if row.model == one.model and row.kind.startswith("drift_"))
    return next((row.message for row in ours if row.release == one.release), "")


def _view(one: Standing) -> StandingView:
    return StandingView.model_validate(one, from_attributes=True)


def _bundle(one: BundleDrift) -> BundleView:
    return BundleView.model_validate(one, from_attributes=True)
