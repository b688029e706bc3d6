"""Samples as files for people and for training: NPZ, Parquet, Arrow, CSV, folders of pictures, Label Studio tasks.

Parquet, Arrow and CSV have the same columns but for the tensors, which CSV has not: ``sample`` (its id), ``sha256`` (of
the exact bytes of its input), ``device``, ``model``, ``release``, ``digest``, ``time``, ``reason``, ``score``,
``inclusion``, ``request_id``, ``predicted``, ``redaction``, ``schema``, ``sealed_for``, ``label`` (that all its
labellers gave, else null), ``labels`` (JSON: labeller to label), ``datatype``, ``shape``, ``input``, ``sealed``.
"""

import csv
import hashlib
import importlib
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
from arro3.core import Array, DataType, Table, list_array

from dsops.errors import InvalidInput, MissingExtra, NotFound
from dsops_controller.dataops.samples import images, label_tasks
from dsops_controller.dataops.samples.sample_reading import FullSample
from dsops_controller.dataops.samples.samples import npz

UNLABELLED = "_unlabelled"
MANIFEST = "manifest.csv"
_ZIP_TIME = 1980, 1, 1, 0, 0, 0
Given = Mapping[str, Mapping[str, str]]
"""Labels by sample and labeller."""


class Form(StrEnum):
    """What samples can be exported as."""

    NPZ = "npz"
    PARQUET = "parquet"
    ARROW = "arrow"
    CSV = "csv"
    IMAGES = "images"
    LABEL_STUDIO = "label-studio"

    @property
    def media_type(self) -> str:
        """What HTTP calls it."""
        return _MEDIA[self]


_MEDIA = {
    Form.NPZ: "application/zip",
    Form.PARQUET: "application/vnd.apache.parquet",
    Form.ARROW: "application/vnd.apache.arrow.file",
    Form.CSV: "text/csv",
    Form.IMAGES: "application/zip",
    Form.LABEL_STUDIO: "application/json",
}


class Folder(StrEnum):
    """What the folders of pictures are named after."""

    LABEL = "label"
    """The label that all labellers gave."""
    PREDICTED = "predicted"
    """What the device said."""


class Only(StrEnum):
    """Which samples, by what labellers said of them."""

    LABELLED = "labelled"
    """Anything."""
    UNLABELLED = "unlabelled"
    """Nothing yet."""
    DISPUTED = "disputed"
    """Not all the same: for one more labeller."""

    def admits(self, given: Mapping[str, str]) -> bool:
        """Whether a sample of which labellers said this is wanted."""
        if self is Only.DISPUTED:
            return len(set(given.values())) > 1
        return bool(given) is (self is Only.LABELLED)


def export(
    form: Form, samples: Sequence[FullSample], given: Given, *, numeric: bool = False, by: Folder = Folder.LABEL
) -> bytes:
    """Return samples as a file; pictures as a ZIP archive of one folder for each class.

    Raises:
        NotFound: There are no samples.
        InvalidInput: They do not fit the form: no pictures, or arrays of different shapes.
        MissingExtra: A part that the form needs is not installed.
    """
    if not samples:
        raise NotFound("no sample matches", hint="see which there are: dsops sample list")
    if form not in (Form.CSV, Form.PARQUET, Form.ARROW):
        check_open(samples)
    if form is Form.NPZ:
        return npz([(sample.row, sample.input.data) for sample in samples], _labels(samples, given))
    if form is Form.CSV:
        return manifest_csv(samples, given)
    if form is Form.LABEL_STUDIO:
        return label_tasks.tasks(samples, given, numeric=numeric)
    if form is Form.IMAGES:
        return picture_folders(samples, given, by)
    table = arrow_table(samples, given)
    return parquet(table) if form is Form.PARQUET else arrow_file(table)


def check_open(samples: Sequence[FullSample]) -> None:
    """Check that no input is sealed.

    Raises:
        InvalidInput: One is.
    """
    sealed = sum(sample.is_sealed for sample in samples)
    if sealed:
        raise InvalidInput(
            f"{sealed} of {len(samples)} inputs are sealed",
            why="only the holder of the data team's key can read them",
            hint="export parquet or arrow, with the column sealed, and open it there",
        )


def content_id(data: bytes) -> str:
    """Return the SHA-256 of a tensor's exact bytes."""
    return hashlib.sha256(data).hexdigest()


def agreed_label(given: Mapping[str, str]) -> str | None:
    """Return the label that all labellers of a sample gave; None when they disagree, or there are none."""
    said = set(given.values())
    return said.pop() if len(said) == 1 else None


def record(sample: FullSample, given: Mapping[str, str]) -> dict[str, Any]:
    """Return a sample's row without its tensor."""
    row = sample.row
    return {
        "sample": row.id,
        "sha256": content_id(sample.input.data),
        "device": row.device,
        "model": row.model,
        "release": row.release,
        "digest": row.digest,
        "time": row.time,
        "reason": row.reason,
        "score": row.score,
        "inclusion": row.inclusion,
        "request_id": row.request_id,
        "predicted": row.predicted,
        "redaction": sample.redaction,
        "schema": sample.schema,
        "sealed_for": sample.sealed_for,
        "label": agreed_label(given),
        "labels": json.dumps(dict(sorted(given.items())), ensure_ascii=False),
    }


def manifest_csv(samples: Sequence[FullSample], given: Given) -> bytes:
    """Return the rows without tensors; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    rows = [record(sample, given.get(sample.row.id, {})) for sample in samples]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def arrow_table(samples: Sequence[FullSample], given: Given) -> Table:
    """Return samples as an Arrow table."""
    rows = [record(sample, given.get(sample.row.id, {})) for sample in samples]
    columns = {name: _array(name, [row[name] for row in rows]) for name in rows[0]}
    shapes = [list(sample.input.shape) for sample in samples]
    return Table.from_pydict(
        {
            **columns,
            "datatype": Array([sample.input.datatype for sample in samples], type=DataType.string()),
            "shape": _lists(shapes),
            "input": Array([sample.input.data for sample in samples], type=DataType.binary()),
            "sealed": Array([sample.sealed or None for sample in samples], type=DataType.binary()),
        }
    )


def parquet(table: Table, query: str = "from data") -> bytes:
    """Return what a query over ``data`` gives as a Parquet file (Zstandard)."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(":memory:") as duck:
        path = Path(folder) / "data.parquet"
        duck.execute("set TimeZone = 'UTC'")
        duck.register("data", table)
        duck.execute(f"copy ({query}) to '{path}' (format parquet, compression zstd)")
        return path.read_bytes()


def arrow_file(table: Table) -> bytes:
    """Return a table as an Arrow IPC file.

    Raises:
        MissingExtra: ``arro3-io`` is not installed.
    """
    buffer = io.BytesIO()
    _arrow_io().write_ipc(table, buffer)
    return buffer.getvalue()


def picture_folders(samples: Sequence[FullSample], given: Given, by: Folder = Folder.LABEL) -> bytes:
    """Return pictures as a ZIP archive: ``CLASS/SHA256.png``, and ``manifest.csv`` about all of them.

    Raises:
        InvalidInput: An input is no picture.
    """
    pictures = {picture_path(sample, given, by): images.png(sample.input) for sample in samples}
    return zipped({MANIFEST: manifest_csv(samples, given), **pictures})


def picture_path(sample: FullSample, given: Given, by: Folder) -> str:
    """Return where a sample's picture is: a folder for its class, a name by its content."""
    label = agreed_label(given.get(sample.row.id, {})) if by is Folder.LABEL else sample.row.predicted or None
    return f"{folder_name(label)}/{content_id(sample.input.data)}.png"


def folder_name(label: str | None) -> str:
    """Return a label as the name of a folder; what could lead elsewhere is replaced."""
    if label is None:
        return UNLABELLED
    name = re.sub(r"[^\w.+-]", "_", label)[:80].lstrip(".")
    return name if name == label else f"{name}-{hashlib.sha256(label.encode()).hexdigest()[:6]}"


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return files as a ZIP archive; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _labels(samples: Sequence[FullSample], given: Given) -> list[str]:
    return [agreed_label(given.get(sample.row.id, {})) or "" for sample in samples]


def _cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value.isoformat() if hasattr(value, "isoformat") else value


_TYPES: dict[str, Callable[[], DataType]] = {
    "release": DataType.int64,
    "score": DataType.float64,
    "inclusion": DataType.float64,
}


def _array(name: str, values: list[Any]) -> Array:
    if name == "time":
        moments = Array([round(value.timestamp() * 1_000_000) for value in values], type=DataType.int64())
        return moments.cast(DataType.timestamp("us", tz="UTC"))
    return Array(values, type=_TYPES.get(name, DataType.string)())


def _lists(values: Sequence[Sequence[int]]) -> Array:
    offsets = [0]
    for value in values:
        offsets.append(offsets[-1] + len(value))
    flat = [number for value in values for number in value]
    return list_array(Array(offsets, type=DataType.int32()), Array(flat, type=DataType.int64()))


def _arrow_io() -> ModuleType:
    try:
        return importlib.import_module("arro3.io")
    except ImportError as error:
        raise MissingExtra(
            "samples cannot be exported as Arrow files",
            why="arro3-io is not installed",
            hint="pip install 'dsops[arrow]', or export parquet",
        ) from error
