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

    def erase_samples(self, samples: list[str], reason: str) -> Row:
        """Take samples out of the store's answers and of the data sets' newest versions."""
        return self._json("POST", "/samples/erase", json={"samples": samples, "reason": reason})

    def datasets(self) -> list[Row]:
        """Return every version of every data set."""
        return self._rows("/datasets")

    def dataset(self, reference: str) -> Row:
        """Return one version (``NAME/VERSION``), or the newest (``NAME``), with the models that were built of it."""
        return self._json("GET", f"/datasets/{_reference(reference)}")

    def create_dataset(self, new: Row) -> Row:
        """Make a version of a data set (see :class:`dsops_controller.server.rest.datasets.NewDataset`)."""
        return self._json("POST", "/datasets", json=new)

    def export_dataset(self, reference: str, form: str, split: str | None) -> bytes:
        """Return a version, or one split of it, as a file."""
        query = _query({"format": form, "split": split})
        return self._call("GET", f"/datasets/{_reference(reference)}/export{query}").content

    def remove_dataset(self, reference: str) -> Row:
        """Keep the samples of a version no longer than others."""
        return self._json("DELETE", f"/datasets/{_reference(reference)}")

    def diff_datasets(self, before: str, after: str) -> Row:
        """Return how one version differs from another."""
        return self._json("GET", f"/datasets/{_reference(after)}/diff?{urlencode({'before': before})}")

    def retrainings(self, model: str | None = None) -> list[Row]:
        """Return every request to train a model anew, newest first."""
        return self._rows("/retraining", model=model)

    def retraining(self, request: str) -> Row:
        """Return one request by its id, or by the beginning of it."""
        return self._json("GET", f"/retraining/{_part(request)}")

    def request_retraining(self, model: str, dataset: str, note: str) -> Row:
        """Ask for a model to be trained anew."""
        return self._json("POST", "/retraining", json={"model": model, "dataset": dataset, "note": note})

    def change_retraining(self, request: str, verb: str) -> Row:
        """Change a request: ``close`` it, or ``retry`` to hand it over."""
        return self._json("POST", f"/retraining/{_part(request)}/{verb}")

    def trace_device(self, device: str, at: str | None) -> Row:
        """Return which bundles a device ran at a moment (ISO 8601; now when it is None), and where each came from."""
        return self._json("GET", f"/trace/devices/{ids.device_id(device)}{_query({'at': at})}")

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


def _part(name: str) -> str:
    if name in {"", ".", ".."}:
        raise InvalidInput(f"{name!r} is not an id", hint="give the id that the list shows")
    return quote(name, safe="")


def _reference(text: str) -> str:
    name, _, version = text.partition("/")
    if not name or name in {".", ".."} or (version and not version.isdecimal()):
        raise InvalidInput(f"{text!r} is not NAME or NAME/VERSION", hint="see: dsops dataset list")
    return f"{quote(name, safe='')}/{version or 'newest'}"


def _query(filters: dict[str, Filter]) -> str:
    given = {name: value for name, value in filters.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""
