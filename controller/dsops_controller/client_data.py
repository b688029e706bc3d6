"""The part of the client that is about samples, labels, data sets and what becomes of them."""

from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from dsops import ids
from dsops.errors import InvalidInput

Row = dict[str, Any]
Files = dict[str, tuple[str, bytes, str]]
Filter = str | int | float | None


class DataCalls(ABC):
    """Calls of :class:`dsops_controller.client.Client`; errors are as there."""

    def samples(self, **filters: str | int | None) -> list[Row]:
        """Return samples without their tensors; filters: model, device, reason, days, limit."""
        return self._rows("/samples", **filters)

    def sample(self, sample: str) -> Row:
        """Return one sample with its tensors in few figures, and everything that was said of it."""
        return self._json("GET", f"/samples/{_id(sample)}")

    def sample_image(self, sample: str) -> bytes:
        """Return a sample's input as a PNG file."""
        return self._call("GET", f"/samples/{_id(sample)}/image").content

    def export_samples(self, **filters: Filter) -> bytes:
        """Return samples as a file; filters: format, model, device, reason, release, days."""
        return self._call("GET", f"/samples/export{_query(filters)}").content

    def labels(self, model: str, **filters: str | int | None) -> list[Row]:
        """Return the labels of a model that count; filters: set_version."""
        return self._rows("/labels", model=model, **filters)

    def import_labels(self, name: str, data: bytes, **about: str | None) -> Row:
        """Hand over a file of labels; about it: form (label-studio or csv), labeller, model."""
        files: Files = {"file": ("file", data, "application/octet-stream")}
        texts = {"name": name, **{key: value for key, value in about.items() if value}}
        files |= {key: (key, value.encode(), "text/plain") for key, value in texts.items()}
        return self._json("POST", "/labels", files=files)

    def give_labels(self, labels: list[Row]) -> Row:
        """Give labels one by one: rows of ``sample``, ``label``, ``labeller`` and perhaps ``time``."""
        return self._json("POST", "/labels/given", json={"labels": labels})

    def label_classes(self, model: str) -> list[Row]:
        """Return every version of what labels of a model may be, the newest last."""
        return self._rows(f"/labels/classes/{ids.model_name(model)}")

    def new_label_classes(self, model: str, new: Row) -> Row:
        """Make a new version of what labels of a model may be: ``classes``, ``scale``, ``guideline``."""
        return self._json("POST", f"/labels/classes/{ids.model_name(model)}", json=new)

    def label_interface(self, model: str, kind: str) -> bytes:
        """Return Label Studio's labelling interface for a model's exported tasks; kind: image or text."""
        return self._call("GET", f"/labels/interface/{ids.model_name(model)}{_query({'kind': kind})}").content

    def label_quality(self, model: str, **filters: Filter) -> Row:
        """Return how good a model's labels are; filters: set_version, enough."""
        return self._json("GET", f"/labels/quality{_query({'model': model, **filters})}")

    def label_coverage(self, model: str, sites: list[str]) -> Row:
        """Return what a model's labels cover; the named sites must be covered too."""
        pairs = [("model", model), *(("site", site) for site in sites)]
        return self._json("GET", f"/labels/coverage?{urlencode(pairs)}")

    @abstractmethod
    def _rows(self, path: str, **filters: str | int | None) -> list[Row]: ...

    @abstractmethod
    def _json(self, method: str, path: str, json: Row | None = None, files: Files | None = None) -> Row: ...

    @abstractmethod
    def _call(self, method: str, path: str) -> httpx.Response: ...


def _id(sample: str) -> str:
    parts = sample.split("/")
    if len(parts) != 3 or not all(parts) or set(parts) & {".", ".."}:
        raise InvalidInput(
            f"{sample!r} is not the id of a sample", why="an id is DEVICE/STREAM/NUMBER", hint="see: dsops sample list"
        )
    return "/".join(quote(part, safe="") for part in parts)


def _query(filters: dict[str, Filter]) -> str:
    given = {name: value for name, value in filters.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
