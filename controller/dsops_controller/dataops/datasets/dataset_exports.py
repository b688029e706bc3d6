"""Data sets as files for training: NPZ, Parquet, folders of pictures, and the manifest itself.

Each carries class counts and inclusion probabilities: what a device returns is no fair draw of what it sees, and a
recipe must be able to weigh it. ``inclusion`` is the probability with which such a frame is kept (null when unknown).
"""

import importlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from arro3.core import Array, DataType, Table

from dsops.errors import InvalidInput, NotFound
from dsops_controller.dataops.datasets.dataset_manifest import Member, Split
from dsops_controller.dataops.samples import images
from dsops_controller.dataops.samples.exports import folder_name, parquet, zipped
from dsops_controller.dataops.samples.sample_reading import FullSample
from dsops_controller.dataops.samples.samples import npz

MANIFEST = "manifest.jsonl"
CARD = "README.md"
LABELS = "labels.txt"


class DatasetForm(StrEnum):
    """What data sets can be exported as."""

    NPZ = "npz"
    """One archive of arrays that ``dsops model build`` reads."""
    PARQUET = "parquet"
    """A folder that the library ``datasets`` loads: one file a split, and a card."""
    IMAGES = "images"
    """A folder a split, in it one for each class, in it the pictures."""
    MANIFEST = "manifest"
    """The manifest alone, as JSON lines."""


@dataclass(frozen=True, slots=True)
class Content:
    """A data set, or one split of it, with its tensors.

    Attributes:
        reference: ``NAME/VERSION``.
        digest: Of the data set.
        manifest: Of the whole data set.
        classes: In order; none for numbers.
        counts: Samples by split and class.
        members: Those of the split, in the order of the manifest.
        samples: Their samples.
    """

    reference: str
    digest: str
    manifest: bytes
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    members: Sequence[Member]
    samples: Sequence[FullSample]


def export(form: DatasetForm, content: Content) -> bytes:
    """Return a data set as a file; Parquet and pictures as a ZIP archive of a folder.

    Raises:
        NotFound: The split is empty.
        InvalidInput: The samples do not fit the form.
        MissingExtra: NumPy is not installed, for NPZ.
    """
    if form is DatasetForm.MANIFEST:
        return content.manifest
    if not content.members:
        raise NotFound(f"{content.reference} has no sample in this split", hint="see: dsops dataset show")
    if form is DatasetForm.NPZ:
        return _npz(content)
    return zipped(_about(content) | (_parquet(content) if form is DatasetForm.PARQUET else _images(content)))


def _npz(content: Content) -> bytes:
    """Return ``x``, ``y``, ``inclusion``, ``split``, ``slice.site`` and more; see :func:`samples.npz` for the rest."""
    np = importlib.import_module("numpy")
    labels = [member.label for member in content.members]
    with np.load(
        io.BytesIO(npz([(s.row, s.input.data) for s in content.samples], labels)), allow_pickle=False
    ) as found:
        arrays: dict[str, Any] = {name: found[name] for name in ("x", "label", "predicted", "time_us")}
    if content.classes:
        place = {name: number for number, name in enumerate(content.classes)}
        arrays["y"] = np.array([place[label] for label in labels], np.int64)
        arrays["classes"] = np.array(content.classes, np.str_)
    else:
        arrays["y"] = np.array([float(label) for label in labels], np.float32)
    lines = [member.line for member in content.members]
    arrays["sample"] = np.array([line["sample"] for line in lines], np.str_)
    arrays["split"] = np.array([line["split"] for line in lines], np.str_)
    arrays["slice.site"] = np.array([line["site"] or "(no site)" for line in lines], np.str_)
    arrays["slice.reason"] = np.array([line["reason"] for line in lines], np.str_)
    arrays["inclusion"] = np.array([line["inclusion"] or float("nan") for line in lines], np.float64)
    arrays["dataset"] = np.array([content.digest], np.str_)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()


def _parquet(content: Content) -> dict[str, bytes]:
    files = {}
    for split in Split:
        chosen = [pair for pair in zip(content.members, content.samples, strict=True) if pair[0].split is split]
        if chosen:
            query = "select * exclude (picture), {'bytes': picture, 'path': sample || '.png'} as image from data"
            has_pictures = all(images.size_of(sample.input.shape) for _, sample in chosen)
            made = parquet(_table(chosen, content), query if has_pictures else "select * exclude (picture) from data")
            files[f"data/{_DATASETS_NAME[split]}-00000-of-00001.parquet"] = made
    return files


_DATASETS_NAME = {Split.TRAINING: "train", Split.VALIDATION: "validation", Split.TEST: "test"}
"""How the library ``datasets`` and most training code call the splits."""


def _table(chosen: Sequence[tuple[Member, FullSample]], content: Content) -> Table:
    texts = ("sample", "device", "site", "reason", "predicted", "label", "bundle", "group", "datatype")
    columns = {name: Array([str(member.line[name]) for member, _ in chosen], type=DataType.string()) for name in texts}
    place = {name: number for number, name in enumerate(content.classes)}
    classes = [place.get(member.label) for member, _ in chosen]
    pictures = [images.png(s.input) if images.size_of(s.input.shape) else None for _, s in chosen]
    moments = Array([member.line["captured_us"] for member, _ in chosen], type=DataType.int64())
    return Table.from_pydict(
        {
            **columns,
            "class": Array(classes, type=DataType.int64()),
            "inclusion": Array([member.line["inclusion"] for member, _ in chosen], type=DataType.float64()),
            "captured": moments.cast(DataType.timestamp("us", tz="UTC")),
            "labels": Array([json.dumps(member.line["labels"]) for member, _ in chosen], type=DataType.string()),
            "shape": Array([json.dumps(member.line["shape"]) for member, _ in chosen], type=DataType.string()),
            "input": Array([sample.input.data for _, sample in chosen], type=DataType.binary()),
            "picture": Array(pictures, type=DataType.binary()),
        }
    )


def _images(content: Content) -> dict[str, bytes]:
    pairs = zip(content.members, content.samples, strict=True)
    return {
        f"{_DATASETS_NAME[member.split]}/{folder_name(member.label)}/{member.content}.png": images.png(sample.input)
        for member, sample in pairs
    }


def _about(content: Content) -> dict[str, bytes]:
    classes = sorted({name for split in content.counts.values() for name in split})
    if content.classes:
        classes = [name for name in content.classes if name in classes]
    head = "| class | " + " | ".join(_DATASETS_NAME[split] for split in Split) + " |"
    rows = [
        f"| {name} | " + " | ".join(str(content.counts[split.value].get(name, 0)) for split in Split) + " |"
        for name in (classes if len(classes) <= 1000 else [])
    ]
    table = "\n".join([head, "| --- | ---: | ---: | ---: |", *rows])
    card = _CARD.format(reference=content.reference, digest=content.digest, table=table)
    names = "".join(f"{name}\n" for name in content.classes)
    return {MANIFEST: content.manifest, CARD: card.encode(), LABELS: names.encode()}


_CARD = """# {reference}

Data set of dsops, digest `{digest}`: the SHA-256 of `manifest.jsonl`, which names each sample by the SHA-256 of its
exact tensor. Splits are made by site or device, never by frame.

{table}

`inclusion` is the probability with which the device kept such a frame. What is here is no fair draw of what devices
see: weigh by 1 / inclusion for figures about the field, and balance the classes for training.
"""


def check_classes(classes: Sequence[str], members: Sequence[Member]) -> tuple[str, ...]:
    """Return the classes with those of members that are no longer among them, at the end.

    Raises:
        InvalidInput: Labels are numbers, and one is not.
    """
    if classes:
        return (*classes, *sorted({member.label for member in members} - set(classes)))
    try:
        for member in members:
            float(member.label)
    except ValueError as error:
        raise InvalidInput("a label is no number, and the model has no classes now", why=str(error)) from error
    return ()
