"""The model card (Mitchell et al., FAT* 2019): given by the recipe, or written from the build's record.

What was measured is known to the build; what the model is for is known to its owner alone. So a card that the build
writes has figures and says that its owner gave no intended use.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from dsops.errors import InvalidInput
from dsops.manifest import TensorSpec
from dsops_controller.build.bundles.documents.subject import Subject

MAX_CARD_BYTES = 1 << 20
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*\s*$")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_MOST_LABELS = 20


def read_card(data: bytes) -> str:
    """Return the text of a model card.

    Raises:
        InvalidInput: It is too long, or not UTF-8.
    """
    if len(data) > MAX_CARD_BYTES:
        raise InvalidInput("the model card is too long", why=f"{len(data)} bytes, {MAX_CARD_BYTES} allowed")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput("the model card is not UTF-8", why=str(error)) from error


def sections(card: str) -> dict[str, tuple[str, ...]]:
    """Return the items of each section of a Markdown text, by its heading in lower case; a paragraph is an item."""
    found: dict[str, list[str]] = {}
    items: list[str] = []
    is_open = False
    for line in card.splitlines():
        heading = _HEADING.match(line)
        if heading:
            items = found.setdefault(heading[1].lower(), [])
            is_open = False
        elif not line.strip():
            is_open = False
        elif is_open and not _ITEM.match(line):
            items[-1] += f" {line.strip()}"
        else:
            items.append(_ITEM.sub("", line).strip())
            is_open = True
    return {title: tuple(lines) for title, lines in found.items() if lines}


def write_card(subject: Subject) -> bytes:
    """Return a model card of what the build knows."""
    record, variant = subject.record, subject.variant
    facts = {
        "Task": record.task.value,
        "Variant": f"{variant.variant} ({variant.mode})",
        "Release": str(subject.release),
        "Licence": record.license or "not stated",
        "Parameters": str(subject.payload.parameters),
        "Operators": ", ".join(f"{name} {count}" for name, count in subject.payload.operators.items()),
        "Hardware": ", ".join(variant.compatibility.hardware) or "any",
        "Labels": _labels(record.labels),
    }
    blocks = [
        f"# {record.model}",
        *([record.description] if record.description else []),
        _table(("", ""), facts.items()),
        *_tensors("Inputs", variant.inputs),
        *_tensors("Outputs", variant.outputs),
        "## Metrics",
        _table(("metric", "value"), ((name, f"{value:.6g}") for name, value in sorted(variant.metrics.items()))),
        "## Data",
        _table(("used for", "digest"), sorted(record.lineage.datasets.items())),
        "## Training",
        _table(("", ""), _training(subject).items()),
        "## Intended use",
        "The model's owner stated none. Name a model card in the recipe: `[model] card`.",
    ]
    return ("\n\n".join(blocks) + "\n").encode()


def _training(subject: Subject) -> Mapping[str, str]:
    lineage = subject.record.lineage
    origin = {"source model": lineage.source_sha256 or "", "commit": lineage.commit}
    return {name: value for name, value in (origin | lineage.parameters | lineage.facts).items() if value}


def _labels(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    return (", ".join(labels[:_MOST_LABELS]) + more) or "none"


def _tensors(title: str, specs: Sequence[TensorSpec]) -> list[str]:
    rows = ((spec.name, f"{spec.datatype} {list(spec.shape)}") for spec in specs)
    return [f"## {title}", _table(("name", "form"), rows)]


def _table(titles: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join([f"| {titles[0]} | {titles[1]} |", "| --- | --- |", *lines]) if lines else "None given."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
