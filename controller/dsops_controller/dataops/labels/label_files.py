"""Labels from files: Label Studio's JSON export, and CSV. Pure.

Label Studio (labelstud.io/guide/task_format, /guide/export): a list of tasks, each with ``data`` as it was imported and
one entry in ``annotations`` for each labeller. JSON_MIN has one flat row instead, which hides who said what.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dsops.errors import InvalidInput

MAX_LABELS = 200_000
MAX_TEXT = 256
MAX_LABELLER = 80
_SHOWN, _LONGEST = 10, 200
_HEADER = ("sample", "label", "labeller", "time")


class LabelFile(StrEnum):
    """What wrote a file of labels."""

    LABEL_STUDIO = "label-studio"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class GivenLabel:
    """What one labeller said of one sample.

    Attributes:
        where: Where it stands in its file, for error texts: ``line 3`` or ``task 3``.
        sample: The sample's id.
        labeller: Who said it.
        label: What.
        time: When; None when the file does not say.
    """

    where: str
    sample: str
    labeller: str
    label: str
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class FileOfLabels:
    """What a file holds: labels, and how many annotations say nothing (cancelled, or empty)."""

    labels: tuple[GivenLabel, ...]
    skipped: int = 0


class Problems:
    """Collects what is wrong with a file, so that all of it is told at once, by place."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note a problem."""
        self._found.append(f"{where}: {what[:_LONGEST]}")

    def check(self) -> None:
        """Raise what was noted.

        Raises:
            InvalidInput: Anything was.
        """
        if self._found:
            more = f" (and {len(self._found) - _SHOWN} more)" if len(self._found) > _SHOWN else ""
            raise InvalidInput(
                "the labels are not valid, none of them was taken",
                why="; ".join(self._found[:_SHOWN]) + more,
                hint="correct the places that are named, and import the file again",
                problems=len(self._found),
            )


def parse_labels(form: LabelFile, data: bytes, labeller: str = "") -> FileOfLabels:
    """Return the labels of a file.

    Args:
        form: What wrote it.
        data: Its bytes.
        labeller: Whose labels these are where a CSV file does not say.

    Raises:
        InvalidInput: It is no such file, or a label of it is not valid; the text names places.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput("the file is not UTF-8 text", why=str(error), hint="save it as UTF-8") from error
    found = _csv(text, labeller) if form is LabelFile.CSV else _label_studio(text)
    if not found.labels:
        raise InvalidInput("the file has no labels", hint="export what is annotated, with the column or key sample")
    if len(found.labels) > MAX_LABELS:
        raise InvalidInput(f"{len(found.labels)} labels are too many", hint=f"import {MAX_LABELS} at a time")
    return found


def form_of(name: str, data: bytes) -> LabelFile:
    """Return what wrote a file, by its name, or else its first letter."""
    is_json = name.lower().endswith(".json") or data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{")
    return LabelFile.LABEL_STUDIO if is_json else LabelFile.CSV


def _csv(text: str, labeller: str) -> FileOfLabels:
    reader = csv.reader(io.StringIO(text, newline=""))
    problems, labels, header = Problems(), list[GivenLabel](), list[str]()
    try:
        for cells in reader:
            words = [cell.strip() for cell in cells]
            if not any(words) or words[0].startswith("#"):
                continue
            where = f"line {reader.line_num}"
            if not header:
                header = _header(words, where)
                continue
            try:
                labels.append(
                    _csv_label(dict(zip(header, words, strict=False)), len(words) - len(header), where, labeller)
                )
            except InvalidInput as error:
                problems.add(where, error.what)
    except csv.Error as error:
        problems.add(f"line {reader.line_num}", str(error))
    problems.check()
    return FileOfLabels(tuple(labels))


def _header(words: Sequence[str], where: str) -> list[str]:
    header = [word.lower() for word in words]
    unknown = sorted(set(header) - set(_HEADER))
    if unknown or len(set(header)) != len(header) or not {"sample", "label"} <= set(header):
        raise InvalidInput(
            f"{where}: the first line does not name the columns",
            why=f"unknown: {', '.join(unknown)}"[:_LONGEST] if unknown else "sample and label must be there, once",
            hint=f"begin the file with: {','.join(_HEADER)} (the last two may be left out)",
        )
    return header


def _csv_label(row: Mapping[str, str], extra: int, where: str, labeller: str) -> GivenLabel:
    if extra:
        raise InvalidInput(f"{abs(extra)} columns too {'many' if extra > 0 else 'few'}")
    who = row.get("labeller") or labeller
    if not who:
        raise InvalidInput("it does not say whose label it is; add the column labeller, or give --labeller")
    return given(where, row["sample"], who, row["label"], _time(row.get("time", "")))


def given(where: str, sample: str, labeller: str, label: str, time: datetime | None) -> GivenLabel:
    """Return a label whose texts can be stored.

    Raises:
        InvalidInput: One cannot.
    """
    for what, text, most in (("label", label, MAX_TEXT), ("labeller", labeller, MAX_LABELLER)):
        if not 0 < len(text) <= most or not text.isprintable():
            raise InvalidInput(f"the {what} {text[:40]!r} has not 1 to {most} printable characters")
    return GivenLabel(where, sample, labeller, label, time)


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text[:40]!r} is not a time such as 2026-11-27T15:00:00Z") from error
    if not 2000 <= found.year <= 2199:
        raise InvalidInput(f"the time {text[:40]!r} is out of range")
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _label_studio(text: str) -> FileOfLabels:
    tasks = _tasks(text)
    problems, labels, skipped = Problems(), list[GivenLabel](), 0
    for number, task in enumerate(tasks, 1):
        where = f"task {number}" + (f" (id {task['id']})" if isinstance(task.get("id"), int) else "")
        for label in _annotations(task, where, problems):
            if label is None:
                skipped += 1
            else:
                labels.append(label)
    problems.check()
    return FileOfLabels(tuple(labels), skipped)


def _tasks(text: str) -> list[dict[str, Any]]:
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the file is not JSON", why=str(error)[:_LONGEST]) from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InvalidInput("the file is not an export of Label Studio", why="it is no list of tasks")
    if tasks and not any("annotations" in task for task in tasks):
        raise InvalidInput(
            "the file does not say who gave which label",
            why="it has no annotations: JSON_MIN makes one row of all labellers" if "data" not in tasks[0] else "",
            hint="export from Label Studio as JSON, not as JSON-MIN",
        )
    return tasks


def _annotations(task: Mapping[str, Any], where: str, problems: Problems) -> Iterator[GivenLabel | None]:
    """Yield each annotation's label, None for one that says nothing; note what is wrong."""
    data, annotations = task.get("data"), task.get("annotations")
    sample = data.get("sample_id") if isinstance(data, dict) else None
    if not isinstance(sample, str) or not isinstance(annotations, list):
        problems.add(where, "it has no data.sample_id or no annotations: make tasks with dsops sample export")
        return
    for annotation in annotations:
        try:
            yield _annotation(annotation, sample, where)
        except InvalidInput as error:
            problems.add(where, error.what)


def _annotation(annotation: object, sample: str, where: str) -> GivenLabel | None:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise InvalidInput("an annotation has no result")
    if annotation.get("was_cancelled") or not annotation["result"]:
        return None
    stated = annotation.get("updated_at") or annotation.get("created_at") or ""
    return given(where, sample, _who(annotation.get("completed_by")), _answer(annotation["result"]), _time(str(stated)))


def _who(completed_by: object) -> str:
    """Return who made an annotation: an e-mail address where the export has one, else the user's number."""
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("username") or completed_by.get("id")
    if isinstance(completed_by, bool) or not isinstance(completed_by, int | str) or completed_by == "":
        raise InvalidInput("an annotation does not say who made it (completed_by)")
    return f"user-{completed_by}" if isinstance(completed_by, int) else completed_by


def _answer(result: Sequence[object]) -> str:
    """Return the one answer of an annotation: a choice, a rating or a number."""
    answers = [answer for one in result if isinstance(one, dict) for answer in _answers(one)]
    if len(answers) != 1:
        kinds = sorted({str(one.get("type")) for one in result if isinstance(one, dict)})
        raise InvalidInput(
            f"an annotation has {len(answers)} answers ({', '.join(kinds)}) instead of one choice or number"
        )
    return answers[0]


def _answers(one: Mapping[str, Any]) -> Iterator[str]:
    value = one.get("value")
    if not isinstance(value, dict):
        return
    choices = value.get("choices")
    if isinstance(choices, list):
        yield from (choice for choice in choices if isinstance(choice, str))
    for key in ("rating", "number"):
        number = value.get(key)
        if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number):
            yield str(number)
