"""Data sets: create, list, show, export, compare."""

import hashlib
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from dsops.errors import InvalidInput, NotFound
from dsops.manifest import Frozen
from dsops_controller.dataops.datasets import dataset_exports, datasets
from dsops_controller.dataops.datasets.dataset_exports import Content, DatasetForm
from dsops_controller.dataops.datasets.dataset_manifest import GroupBy, Labelled, Policy, Shares, Split
from dsops_controller.server.rest.backend import OPERATOR, Backend

_MEDIA = {
    DatasetForm.NPZ: "application/zip",
    DatasetForm.PARQUET: "application/zip",
    DatasetForm.IMAGES: "application/zip",
    DatasetForm.MANIFEST: "application/jsonl",
}
Part = Annotated[float, Field(ge=0, lt=1)]


class NewDataset(Frozen):
    """Which labelled samples become a version of a data set, and how."""

    name: str
    model: str
    device: str | None = None
    reason: str | None = None
    release: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    set_version: int | None = None
    labelled: Labelled = Labelled.AGREED
    fewest: int = Field(default=1, ge=1, le=100)
    excluded: tuple[str, ...] = ()
    group_by: GroupBy = GroupBy.SITE
    validation: Part = 0.1
    test: Part = 0.1


class DatasetView(Frozen):
    """One version of a data set; ``gone`` samples of it were erased since; ``is_kept``: they outlive their days."""

    name: str
    version: int
    reference: str
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
    gone: int
    is_kept: bool
    is_new: bool | None = None


class BuiltView(Frozen):
    """A bundle whose lineage names the data set, itself or a file that was exported of it."""

    model: str
    release: int
    variant: str
    sha256: str
    purpose: str
    by: str


class DatasetDetail(DatasetView):
    """One version with the models that were built of it."""

    models: tuple[BuiltView, ...]


class RelabelledView(Frozen):
    """A sample whose label changed."""

    sample: str
    before: str
    now: str


class ChangeView(Frozen):
    """How one version differs from another; samples by the SHA-256 of their tensors."""

    before: str
    after: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[RelabelledView, ...]
    moved: tuple[str, ...]


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/datasets", tags=["datasets"])

    @routes.get("")
    def list_datasets() -> list[DatasetView]:
        return [DatasetView.model_validate(record, from_attributes=True) for record in backend.datasets.list()]

    @routes.post("", status_code=201)
    def create(new: NewDataset) -> DatasetView:
        record, is_new = backend.datasets.create(new.name, _query(new), _policy(new), OPERATOR)
        return DatasetView.model_validate(record, from_attributes=True).model_copy(update={"is_new": is_new})

    @routes.get("/{name}/{version}")
    def show(name: str, version: str) -> DatasetDetail:
        record = backend.datasets.get(name, _version(version))
        facts = DatasetView.model_validate(record, from_attributes=True).model_dump(exclude={"reference"})
        models = [BuiltView.model_validate(one, from_attributes=True) for one in backend.lineage.models(record.digest)]
        return DatasetDetail(**facts, reference=record.reference, models=tuple(models))

    @routes.delete("/{name}/{version}")
    def remove(name: str, version: str) -> DatasetView:
        number = _version(version)
        if number is None:
            raise InvalidInput("which version is removed must be said", hint="give its number")
        return DatasetView.model_validate(backend.datasets.remove(name, number, OPERATOR), from_attributes=True)

    @routes.get("/{name}/{version}/export", response_class=Response)
    def export(
        name: str,
        version: str,
        form: Annotated[DatasetForm, Query(alias="format")] = DatasetForm.NPZ,
        split: Split | None = None,
    ) -> Response:
        content = _content(backend, name, _version(version), split, with_samples=form is not DatasetForm.MANIFEST)
        data = dataset_exports.export(form, content)
        sha256 = hashlib.sha256(data).hexdigest()
        backend.lineage.note_export(content.digest, sha256, split.value if split else "", form.value)
        return Response(data, media_type=_MEDIA[form], headers={"X-Content-SHA256": sha256})

    @routes.get("/{name}/{version}/diff")
    def diff(name: str, version: str, before: str) -> ChangeView:
        old, new = datasets.reference(before), (name, _version(version))
        found = backend.datasets.difference(old, new)
        return ChangeView(
            before=backend.datasets.get(*old).reference,
            after=backend.datasets.get(*new).reference,
            added=found.added,
            removed=found.removed,
            relabelled=tuple(RelabelledView(sample=s, before=b, now=n) for s, b, n in found.relabelled),
            moved=found.moved,
        )

    return routes


def _version(text: str) -> int | None:
    if text == "newest":
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 2**31):
        raise InvalidInput(f"{text[:40]!r} is no version of a data set", hint="give a number, or newest")
    return int(text)


def _query(new: NewDataset) -> datasets.Query:
    names = ("model", "device", "reason", "release", "since", "until", "set_version")
    return datasets.Query(**{name: getattr(new, name) for name in names})


def _policy(new: NewDataset) -> Policy:
    shares = Shares(new.validation, new.test)
    return Policy(new.labelled, new.fewest, new.excluded, new.group_by, shares)


def _content(backend: Backend, name: str, version: int | None, split: Split | None, *, with_samples: bool) -> Content:
    record = backend.datasets.get(name, version)
    every = backend.datasets.members(name, record.version)
    try:
        classes = backend.labels.newest_set(record.model).classes
    except NotFound:  # its bundle is gone, and nobody named classes
        classes = tuple(sorted({member.label for member in every}))
    return Content(
        reference=record.reference,
        digest=record.digest,
        manifest=backend.datasets.manifest(name, record.version),
        classes=dataset_exports.check_classes(classes, every),
        counts=record.counts,
        members=[member for member in every if split in (None, member.split)],
        samples=backend.datasets.samples(name, record.version, split) if with_samples else (),
    )
