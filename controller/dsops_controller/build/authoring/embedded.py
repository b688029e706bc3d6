"""What a model file says about itself: labels, licence, author, description. Reads bytes, believes nothing.

ONNX: ``metadata_props`` (onnx/docs/MetadataProps.md, and the keys that exporters use). TFLite: the associated files of
TFLite Metadata, which are a ZIP archive behind the FlatBuffer.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from google.protobuf.message import DecodeError

from dsops_controller.build.conversion.limits import check_limits

MAX_LABELS_BYTES = 1 << 20
MAX_LABELS = 65_536
MAX_LABEL = 256
_MAX_MEMBERS = 64
_TEXT_LIMIT = 4000
_LABEL_KEYS = ("labels", "label_names", "class_names", "classes", "names", "id2label")
_INDEXED = re.compile(r"""["']?(\d{1,6})["']?\s*:\s*(?:'([^'\\]*)'|"([^"\\]*)")""")
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OSError)


@dataclass(frozen=True)
class Embedded:
    """What was found; what was not is empty."""

    name: str = ""
    description: str = ""
    license: str = ""
    author: str = ""
    labels: tuple[str, ...] = ()


def read_onnx_facts(data: bytes) -> Embedded:
    """Return what an ONNX file says about itself; nothing when it cannot be read.

    Raises:
        InvalidModel: It is too large to look at.
    """
    check_limits(data)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError):
        return Embedded()
    found = {as_text(entry.key).lower(): as_text(entry.value) for entry in model.metadata_props}
    return Embedded(
        name=_line(found.get("name", "")),
        description=_line(found.get("description", "") or as_text(model.doc_string)),
        license=_line(found.get("model_license", "") or found.get("license", "")),
        author=_line(found.get("model_author", "") or found.get("author", "")),
        labels=_first_labels(found),
    )


def read_tflite_facts(data: bytes) -> Embedded:
    """Return the labels that a TFLite file carries behind the model; nothing when there are none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in sorted(archive.infolist()[:_MAX_MEMBERS], key=_likelihood):
                if member.filename.endswith(".txt") and member.file_size <= MAX_LABELS_BYTES:
                    with archive.open(member) as stream:
                        text = stream.read(MAX_LABELS_BYTES + 1)
                    labels = parse_labels(text.decode("utf-8-sig"))
                    if labels:
                        return Embedded(labels=labels)
    except _DAMAGE:
        return Embedded()
    return Embedded()


def parse_labels(text: str) -> tuple[str, ...]:
    """Return the labels of a text, one a line; none when they cannot be labels: too many, too long, empty or twice."""
    return _usable(line.strip() for line in text.removesuffix("\n").splitlines())


def _likelihood(member: zipfile.ZipInfo) -> bool:
    return "label" not in member.filename.lower()


def _first_labels(found: Mapping[str, str]) -> tuple[str, ...]:
    for key in _LABEL_KEYS:
        labels = _written(found.get(key, ""))
        if labels:
            return labels
    return ()


def _written(text: str) -> tuple[str, ...]:
    """Read a JSON list, ``{0: "a", 1: "b"}`` in JSON or as Python writes it, or words between commas or line breaks."""
    if not text or len(text) > MAX_LABELS_BYTES:
        return ()
    if text.lstrip().startswith("["):
        return _from_list(text)
    if text.lstrip().startswith("{"):
        pairs = {int(number): one or other for number, one, other in _INDEXED.findall(text)}
        return _usable(pairs[number] for number in range(len(pairs))) if set(pairs) == set(range(len(pairs))) else ()
    return parse_labels(text) if "\n" in text else _usable(word.strip() for word in text.split(","))


def _from_list(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text.replace("'", '"'))
    except (ValueError, RecursionError):
        return ()
    return _usable(found) if all(isinstance(label, str) for label in found) else ()


def _usable(labels: Iterable[str]) -> tuple[str, ...]:
    found = tuple(labels)
    is_usable = 2 <= len(set(found)) == len(found) <= MAX_LABELS and all(
        0 < len(label) <= MAX_LABEL and label.isprintable() for label in found
    )
    return found if is_usable else ()


def as_text(value: str | bytes) -> str:
    """Return a text field's value; protobuf gives bytes for one that is not UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _line(text: str) -> str:
    return " ".join(text[:_TEXT_LIMIT].split())
