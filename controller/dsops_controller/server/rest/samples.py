"""Samples: list, show, export, erase."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from dsops.errors import NotFound
from dsops.manifest import Frozen
from dsops_controller.dataops.labels.labels import LabelRow
from dsops_controller.dataops.samples import exports, images
from dsops_controller.dataops.samples.exports import Folder, Form, Only
from dsops_controller.dataops.samples.label_tasks import confidence_of
from dsops_controller.dataops.samples.sample_reading import FullSample, SampleTensor
from dsops_controller.dataops.samples.samples import SampleFilter
from dsops_controller.server.rest.backend import OPERATOR, Backend

MAX_DAYS = 3660
Days = Annotated[int | None, Query(ge=1, le=MAX_DAYS)]


class SampleView(Frozen):
    """One sample without its input; ``labels`` is what labellers said of it."""

    id: str
    device: str
    model: str
    release: int
    digest: str
    time: datetime
    reason: str
    score: float | None
    inclusion: float | None
    request_id: str
    predicted: str
    datatype: str
    shape: tuple[int, ...]
    input_bytes: int
    labels: dict[str, str] = Field(default={})


class TensorView(Frozen):
    """A tensor in few figures; ``first`` are its first values, None when they are no numbers."""

    datatype: str
    shape: tuple[int, ...]
    sha256: str
    low: float | None
    high: float | None
    mean: float | None
    first: tuple[float, ...] | None


class Erasure(Frozen):
    """Which samples shall be gone, and why."""

    samples: tuple[str, ...] = Field(min_length=1, max_length=10_000)
    reason: str


class ErasedView(Frozen):
    """How many samples are gone, and the new versions of the data sets that held them."""

    samples: int
    versions: tuple[str, ...]


class GivenView(Frozen):
    """What one labeller said, and when."""

    labeller: str
    label: str
    set_version: int
    time: datetime
    stored: datetime
    source: str


class SampleDetail(SampleView):
    """One sample with its tensors in few figures, and everything that was said of it."""

    input: TensorView
    output: TensorView | None
    confidence: float | None
    is_picture: bool
    is_sealed: bool
    weight: float | None
    redaction: str
    schema_: str = Field(serialization_alias="schema")
    history: tuple[GivenView, ...]


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/samples", tags=["samples"])

    @routes.get("")
    def samples(
        model: str | None = None,
        device: str | None = None,
        reason: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        days: Days = None,
    ) -> list[SampleView]:
        erased = backend.samples.erased()
        which = SampleFilter(model, device, reason, since=_since(backend, days))
        rows = backend.store.samples(which, limit + len(erased))
        return [SampleView.model_validate(row, from_attributes=True) for row in rows if row.id not in erased][:limit]

    @routes.get("/export", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}})
    def export(  # noqa: PLR0913, PLR0917 - parameters of the query
        model: str | None = None,
        device: str | None = None,
        reason: str | None = None,
        release: int | None = None,
        days: Days = None,
        only: Only | None = None,
        by: Folder = Folder.LABEL,
        form: Annotated[Form, Query(alias="format")] = Form.NPZ,
    ) -> Response:
        found = backend.samples.matching(SampleFilter(model, device, reason, release, _since(backend, days)))
        given = labels_of(backend, found)
        if only is not None:
            found = [sample for sample in found if only.admits(given.get(sample.row.id, {}))]
        data = exports.export(form, found, given, numeric=_is_numeric(backend, found), by=by)
        return Response(data, media_type=form.media_type)

    @routes.post("/erase")
    def erase(which: Erasure) -> ErasedView:
        done = backend.datasets.erase(which.samples, which.reason, OPERATOR)
        return ErasedView(samples=done.samples, versions=done.versions)

    @routes.get("/{device}/{stream}/{seq}")
    def show(device: str, stream: str, seq: int) -> SampleDetail:
        sample = backend.samples.get(f"{device}/{stream}/{seq}")
        return _detail(sample, backend.labels.history(sample.row.id))

    @routes.get("/{device}/{stream}/{seq}/image", response_class=Response)
    def picture(device: str, stream: str, seq: int) -> Response:
        return Response(images.png(backend.samples.get(f"{device}/{stream}/{seq}").input), media_type="image/png")

    return routes


def labels_of(backend: Backend, samples: list[FullSample]) -> dict[str, dict[str, str]]:
    """Return what labellers said of samples that they labelled."""
    wanted = {sample.row.id for sample in samples}
    found: dict[str, dict[str, str]] = {}
    for model in sorted({sample.row.model for sample in samples}):
        for row in backend.labels.current(model):
            if row.sample in wanted:
                found.setdefault(row.sample, {})[row.labeller] = row.label
    return found


def _since(backend: Backend, days: int | None) -> datetime | None:
    return backend.clock.now() - timedelta(days=days) if days else None


def _is_numeric(backend: Backend, samples: list[FullSample]) -> bool:
    models = {sample.row.model for sample in samples}
    try:
        return any(backend.labels.newest_set(model).is_numeric for model in models)
    except NotFound:  # nobody said what labels may be: predictions are taken for classes
        return False


def _detail(sample: FullSample, said: list[LabelRow]) -> SampleDetail:
    history = tuple(GivenView.model_validate(row, from_attributes=True) for row in said)
    facts = {name: getattr(sample.row, name) for name in SampleView.model_fields if name != "labels"}
    return SampleDetail(
        **facts,
        labels={row.labeller: row.label for row in said},
        input=_tensor(sample.input),
        output=_tensor(sample.output) if sample.output.datatype else None,
        confidence=confidence_of(sample.output),
        is_picture=images.size_of(sample.input.shape) is not None and sample.input.datatype != "BYTES",
        is_sealed=sample.is_sealed,
        weight=sample.weight,
        redaction=sample.redaction,
        schema_=sample.schema,
        history=history,
    )


def _tensor(tensor: SampleTensor) -> TensorView:
    values = () if tensor.datatype == "BYTES" else images.numbers(tensor)
    finite = [value for value in values if value - value == 0.0]
    return TensorView(
        datatype=tensor.datatype,
        shape=tensor.shape,
        sha256=exports.content_id(tensor.data),
        low=min(finite, default=None),
        high=max(finite, default=None),
        mean=sum(finite) / len(finite) if finite else None,
        first=tuple(finite[:10]) if values else None,
    )
