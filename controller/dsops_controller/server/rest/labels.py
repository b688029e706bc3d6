"""Labels: take them in, and tell how good they are and what they cover."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from dsops.errors import InvalidInput
from dsops.manifest import Frozen
from dsops_controller.dataops.labels.agreement import Scale
from dsops_controller.dataops.labels.coverage import coverage
from dsops_controller.dataops.labels.label_files import GivenLabel, LabelFile, parse_labels
from dsops_controller.dataops.labels.quality import ENOUGH, quality
from dsops_controller.dataops.samples import label_tasks
from dsops_controller.server.rest import multipart
from dsops_controller.server.rest.backend import OPERATOR, Backend

Version = Annotated[int | None, Query(ge=1)]


class LabelSetView(Frozen):
    """One version of what labels of a model's samples may be."""

    model: str
    version: int
    scale: Scale
    classes: tuple[str, ...]
    guideline: str
    created: datetime


class NewLabelSet(Frozen):
    """A new version of a model's classes; none for numbers."""

    classes: tuple[str, ...] = ()
    scale: Scale = Scale.NOMINAL
    guideline: str = ""


class NewLabel(Frozen):
    """What one labeller says of one sample."""

    sample: str
    label: str
    labeller: str
    time: datetime | None = None


class NewLabels(Frozen):
    """Labels that are given one by one."""

    labels: tuple[NewLabel, ...] = Field(min_length=1, max_length=1000)


class TakenView(Frozen):
    """What was stored, what was there, and how many annotations said nothing."""

    added: int
    unchanged: int
    skipped: int = 0


class LabelView(Frozen):
    """What one labeller said of one sample, and what the device had said."""

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


class EstimateView(Frozen):
    """A coefficient of agreement with its 95 % interval, and how many samples it rests on."""

    value: float | None
    low: float | None
    high: float | None
    items: float


class PairView(Frozen):
    """How two labellers agree."""

    first: str
    second: str
    agreed: int
    kappa: EstimateView


class ConfusionView(Frozen):
    """What was said instead of a class, of how many samples."""

    label: str
    instead: str
    samples: int


class ClassView(Frozen):
    """How labellers agree on one class."""

    name: str
    kappa: EstimateView
    is_listed: bool
    confusions: tuple[ConfusionView, ...]


class DisagreementView(Frozen):
    """A sample on which labellers disagree."""

    sample: str
    labels: dict[str, str]


class QualityView(Frozen):
    """How good the labels of a model's samples are; see :class:`dsops_controller.dataops.labels.quality.Quality`."""

    scale: Scale
    samples: int
    twice: int
    alpha: EstimateView
    pairs: tuple[PairView, ...]
    classes: tuple[ClassView, ...]
    listed: tuple[str, ...]
    disagreements: tuple[DisagreementView, ...]


class CaseView(Frozen):
    """Labelled samples of one kind."""

    name: str
    samples: int
    right: int
    share_low: float
    right_low: float
    newest: datetime | None
    is_covered: bool


class CellView(Frozen):
    """What was predicted of what."""

    predicted: str
    label: str
    samples: int
    share_low: float
    share_high: float


class CoverageView(Frozen):
    """What labels cover; see :class:`dsops_controller.dataops.labels.coverage.Coverage`."""

    samples: int
    disputed: int
    classes: tuple[CaseView, ...]
    sites: tuple[CaseView, ...]
    class_sites: tuple[CaseView, ...]
    cells: tuple[CellView, ...]
    uncovered: tuple[str, ...]


_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {
                "file": {"type": "string", "format": "binary"},
                **{name: {"type": "string"} for name in ("form", "labeller", "model", "name")},
            },
        }
    }
}


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/labels", tags=["labels"])

    @routes.get("")
    def labels(model: str, set_version: Version = None) -> list[LabelView]:
        rows = backend.labels.current(model, set_version)
        return [LabelView.model_validate(row, from_attributes=True) for row in rows]

    @routes.post("", status_code=201, openapi_extra={"requestBody": {"required": True, "content": _FORM}})
    async def take_file(request: Request) -> TakenView:
        """Take a file of labels, as the part ``file`` of a form; ``form`` is ``label-studio`` or ``csv``.

        The part ``labeller`` says whose labels these are where a CSV file does not, ``model`` admits samples of that
        model only, and ``name`` is kept as where the labels come from.
        """
        body = await request.body()
        return await run_in_threadpool(_take_file, backend, request.headers.get("content-type", ""), body)

    @routes.post("/given", status_code=201)
    def give(new: NewLabels) -> TakenView:
        given = [
            GivenLabel(f"label {number}", one.sample, one.labeller, one.label, one.time)
            for number, one in enumerate(new.labels, 1)
        ]
        taken = backend.labels.take(given, actor=OPERATOR)
        return TakenView(added=taken.added, unchanged=taken.unchanged)

    @routes.get("/quality")
    def how_good(model: str, set_version: Version = None, enough: float = ENOUGH) -> QualityView:
        wanted = backend.labels.newest_set(model)
        given: dict[str, dict[str, str]] = {}
        for row in backend.labels.current(model, set_version):
            given.setdefault(row.sample, {})[row.labeller] = row.label
        found = quality(given, wanted.classes, wanted.scale, enough=enough)
        return QualityView.model_validate(found, from_attributes=True)

    @routes.get("/coverage")
    def what_is_covered(model: str, site: Annotated[list[str] | None, Query()] = None) -> CoverageView:
        rows, wanted = backend.labels.current(model), backend.labels.newest_set(model)
        found = coverage(rows, wanted.classes, backend.clock.now(), site or ())
        return CoverageView.model_validate(found, from_attributes=True)

    @routes.get("/classes/{model}")
    def classes(model: str) -> list[LabelSetView]:
        sets = backend.labels.sets(model) or (backend.labels.newest_set(model),)
        return [LabelSetView.model_validate(one, from_attributes=True) for one in sets]

    @routes.post("/classes/{model}", status_code=201)
    def new_classes(model: str, new: NewLabelSet) -> LabelSetView:
        made = backend.labels.new_set(model, new.classes, new.scale, new.guideline, OPERATOR)
        return LabelSetView.model_validate(made, from_attributes=True)

    @routes.get("/interface/{model}", response_class=Response)
    def interface(model: str, kind: Annotated[str, Query(pattern="^(image|text)$")] = "image") -> Response:
        """Return Label Studio's labelling interface for the exported tasks of a model."""
        text = label_tasks.interface(backend.labels.newest_set(model).classes, kind)
        return Response(text.encode(), media_type="application/xml")

    return routes


def _take_file(backend: Backend, content_type: str, body: bytes) -> TakenView:
    parts = multipart.parse(content_type, body)
    if "file" not in parts or set(parts) - {"file", "form", "labeller", "model", "name"}:
        raise InvalidInput("an import has the part 'file'", why=f"given: {', '.join(sorted(parts))}"[:200])
    texts = {name: data.decode("utf-8", "replace") for name, data in parts.items() if name != "file"}
    try:
        form = LabelFile(texts.get("form", LabelFile.LABEL_STUDIO))
    except ValueError as error:
        raise InvalidInput(f"{texts['form'][:40]!r} is no form of labels", hint="label-studio or csv") from error
    found = parse_labels(form, parts["file"], texts.get("labeller", ""))
    taken = backend.labels.take(found.labels, texts.get("model"), OPERATOR, texts.get("name", ""))
    return TakenView(added=taken.added, unchanged=taken.unchanged, skipped=found.skipped)
