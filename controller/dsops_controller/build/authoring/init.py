"""Writes a recipe by looking at a model: what can be read is filled in, what a person must give is said."""

import errno
import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dsops.bundle import file_digest, sha256_hex
from dsops.errors import Conflict, InvalidInput, InvalidModel, NoSpace, UnsupportedModel
from dsops.files import fsync_folder, write_atomically
from dsops.manifest import Postprocessing, Task, TensorSpec, check_task, first_problem
from dsops_controller.build.authoring.embedded import parse_labels
from dsops_controller.build.authoring.inspection import Inspection, inspect_model
from dsops_controller.build.authoring.recipe_text import Draft, render_recipe, savez_line
from dsops_controller.build.data import Array, read_data
from dsops_controller.build.recipe_file import FILE_NAME, MIN_LABELS, ModelSection
from dsops_controller.build.registry import SCHEME, ModelRegistry, is_registered, located
from dsops_controller.build.source import read_small

LABELS_FILE = "labels.txt"
DATA_FILE = "data.npz"
_NAME_LIMIT = 63
_LICENSE_LIMIT = 256
_HALF = 0.5
_QUANTITY_AXES = 2
"""A regression's truth is [N] or [N, k]; with more axes it is an image or a mask."""


@dataclass(frozen=True)
class Wishes:
    """What a person says beforehand; what is empty is found out.

    Attributes:
        labels: Text file with a label a line.
        data: ``.npz`` file for every purpose.
        force: Write over an earlier recipe, and over other files of the same names.
    """

    name: str = ""
    task: Task | None = None
    labels: Path | None = None
    data: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Initiated:
    """A recipe that was written.

    Attributes:
        recipe: Its file.
        draft: What it says.
        needed: What a person must still give, one line each.
        savez: The line of Python that writes a data file.
    """

    recipe: Path
    draft: Draft
    inspection: Inspection
    needed: tuple[str, ...]
    savez: str


def init_recipe(
    source: str, folder: Path, wishes: Wishes = Wishes(), registry: ModelRegistry | None = None
) -> Initiated:
    """Look at a model and write ``bundle.toml`` into a folder, with copies of the files that it names.

    Nothing is written when anything is wrong, and the recipe is written last.

    Args:
        source: Path of a ``.onnx`` or ``.tflite`` file, or a reference into a registry, which the recipe then keeps.
        folder: The recipe's folder; made when it is not there. Files that are inside already are not copied.
        wishes: What is known beforehand.
        registry: Where references lead.

    Raises:
        Conflict: There is a recipe, or another file of the same name, and ``force`` was not said.
        InvalidInput: A file cannot be read, or is not what it should be; or the labels do not fit.
        InvalidModel: The model is not sound, or not of the task that was named.
        UnsupportedModel: The model cannot be converted; the operators are named.
        NoSpace: The disk is full.
    """
    _require_no_recipe(folder, wishes)
    with located(source, Path(), registry) as found:
        return write_recipe(inspect_model(found.path), found.path, source, folder, wishes)


def write_recipe(inspection: Inspection, file: Path, source: str, folder: Path, wishes: Wishes = Wishes()) -> Initiated:
    """Write the recipe of a model that was looked at already; see :func:`init_recipe`.

    Args:
        inspection: What was seen.
        file: Where the model is.
        source: How it was named: that path, or a reference into a registry.
        folder: The recipe's folder.
        wishes: What is known beforehand.
    """
    _require_no_recipe(folder, wishes)
    _require_buildable(inspection)
    parts = _Parts(folder, force=wishes.force)
    tensors, told = inspection.tensors, inspection.embedded
    own_name = f"model{file.suffix}"
    data = read_data(wishes.data, tensors.inputs, "the data", needs_truth=False) if wishes.data else None
    task = wishes.task or guess_task(inspection, data.y if data else None)
    labels = _labels(inspection, task, wishes)
    draft = Draft(
        name=wishes.name or _slug(told.name or _stem(source)),
        source=source if is_registered(source) else parts.copy(file, own_name),
        task=task,
        inputs=tensors.inputs,
        outputs=tensors.outputs,
        transposed=tensors.transposed,
        rule=_rule(inspection, task),
        labels=parts.write(LABELS_FILE, "".join(f"{label}\n" for label in labels).encode()) if labels else "",
        score_count=_scores(tensors.outputs[0]),
        description=told.description,
        license=told.license[:_LICENSE_LIMIT],
        author=told.author,
        data=parts.copy(wishes.data, DATA_FILE) if wishes.data else "",
        payload=parts.copy(file, own_name) if tensors.is_quantized else "",
    )
    _check(draft, labels)
    parts.finish(render_recipe(draft).encode())
    line = savez_line(draft.inputs, draft.task, str(folder / "evaluation.npz"))
    return Initiated(folder / FILE_NAME, draft, inspection, _needed(draft), line)


def guess_task(inspection: Inspection, y: Array | None = None) -> Task:
    """Return what a model's first output most likely means.

    Args:
        inspection: The model: the output's shape, and what it ends with.
        y: The truth [N, ...], when there is data; what it is says more than the model.
    """
    by_model = _task_of_model(inspection)
    return by_model if y is None else _task_of_truth(inspection.tensors.outputs[0], y, by_model)


def _task_of_model(inspection: Inspection) -> Task:
    first, activation = inspection.tensors.outputs[0], inspection.tensors.activations[0]
    scores = _scores(first)
    if scores and activation:
        return Task.CLASSIFICATION
    if inspection.tensors.inputs[0].shape == first.shape:
        return Task.RECONSTRUCTION
    if scores:
        return Task.CLASSIFICATION if scores > 1 else Task.REGRESSION
    return Task.OTHER


def _task_of_truth(output: TensorSpec, y: Array, by_model: Task) -> Task:
    """Return the task that a truth belongs to.

    A mask or a text is for a metric of one's own. A truth that is nearly right, such as labels in float, leaves it at
    what the model says; the evaluation tells then what is wrong with it.
    """
    scores = _scores(output)
    fits = math.prod(y.shape[1:]) == math.prod(output.shape[1:])
    if y.dtype.kind == "f" and y.ndim <= _QUANTITY_AXES:
        return Task.REGRESSION if fits else by_model
    if y.dtype.kind not in "iu" or y.ndim != 1:
        return Task.OTHER
    if by_model is Task.RECONSTRUCTION and _are_labels(y, MIN_LABELS):
        return Task.RECONSTRUCTION
    if scores and _are_labels(y, max(scores, MIN_LABELS)):
        return Task.CLASSIFICATION
    return Task.REGRESSION if fits else by_model


def _are_labels(y: Array, count: int) -> bool:
    return not len(y) or bool(y.min() >= 0 and y.max() < count)


def _rule(inspection: Inspection, task: Task) -> Postprocessing:
    if task is not Task.CLASSIFICATION:
        return Postprocessing()
    is_binary = _scores(inspection.tensors.outputs[0]) == 1
    threshold = _HALF if is_binary else None
    if inspection.tensors.activations[0]:
        return Postprocessing(threshold=threshold)
    return Postprocessing(activation="sigmoid" if is_binary else "softmax", threshold=threshold)


def _scores(output: TensorSpec) -> int:
    """Return how many scores an output [1, C] or [1, 1, 1, C] holds, 0 when it is of another shape."""
    count = math.prod(output.shape[1:])
    return count if len(output.shape) > 1 and count == output.shape[-1] else 0


def _require_no_recipe(folder: Path, wishes: Wishes) -> None:
    recipe = folder / FILE_NAME
    if recipe.exists() and not wishes.force:
        raise Conflict(f"{recipe} is there already", why="it would be replaced", hint="--force writes over it")


def _require_buildable(inspection: Inspection) -> None:
    if inspection.refusal:
        kind = UnsupportedModel if inspection.unsupported else InvalidModel
        raise kind(f"no build is possible from {inspection.file}", why=inspection.refusal)


def _labels(inspection: Inspection, task: Task, wishes: Wishes) -> tuple[str, ...]:
    """Return the labels that a person gave, or those of the file when they fit."""
    wanted = {max(_scores(inspection.tensors.outputs[0]), MIN_LABELS)} if task is Task.CLASSIFICATION else set()
    if wishes.labels is None:
        found = inspection.embedded.labels
        return found if len(found) in wanted else ()
    labels = parse_labels(_decoded(wishes.labels))
    if not labels:
        raise InvalidInput(
            f"{wishes.labels} does not hold labels", why="two or more lines are needed, none empty, none twice"
        )
    if wanted and len(labels) not in wanted:
        raise InvalidInput(
            f"{wishes.labels} holds {len(labels)} labels", why=f"the model's output needs {wanted.pop()}"
        )
    return labels


def _decoded(path: Path) -> str:
    try:
        return read_small(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text", why=str(error)) from error


def _check(draft: Draft, labels: tuple[str, ...]) -> None:
    """Check name and task.

    Raises:
        InvalidInput: One does not fit.
        InvalidModel: The task that was named is not the model's.
    """
    try:
        ModelSection(name=draft.name, source=draft.source, task=draft.task, labels=labels)
    except ValidationError as error:
        raise InvalidInput("the recipe would not be valid", why=first_problem(error)) from error
    try:
        check_task(draft.task, labels, draft.inputs, draft.outputs)
    except ValueError as error:
        raise InvalidModel(f"the model is not a {draft.task}", why=str(error), hint="name another --task") from error


def _needed(draft: Draft) -> tuple[str, ...]:
    needed = []
    if not draft.data:
        needed += ["calibration.npz: typical frames", "evaluation.npz: held-out frames with their truth"]
    if draft.needed_labels:
        needed.append(f"{LABELS_FILE}: {draft.needed_labels} lines, named by model.labels")
    if draft.task is Task.RECONSTRUCTION:
        needed.append("postprocessing.threshold: the score from which on a frame is an anomaly")
    return tuple(needed)


def _stem(source: str) -> str:
    return re.split(r"[@/]", source.removeprefix(SCHEME))[0] if is_registered(source) else Path(source).stem


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_NAME_LIMIT].strip("-") or "model"


class _Parts:
    """Files of a recipe's folder: gathered first, written when all is well."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        self._folder = folder
        self._force = force
        self._copies: dict[str, Path] = {}
        self._texts: dict[str, bytes] = {}

    def copy(self, source: Path, name: str) -> str:
        """Plan a copy and return its name; a file that is in the folder already stays where it is."""
        place, folder = source.resolve(), self._folder.resolve()
        if place.is_relative_to(folder):
            return place.relative_to(folder).as_posix()
        if not source.is_file():
            raise InvalidInput(f"cannot read {source}", why="there is no such file")
        self._require_free(name, file_digest(source)[0])
        self._copies[name] = source
        return name

    def write(self, name: str, data: bytes) -> str:
        """Plan a new file and return its name."""
        self._require_free(name, sha256_hex(data))
        self._texts[name] = data
        return name

    def finish(self, recipe: bytes) -> None:
        """Write everything, the recipe last."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"cannot write {self._folder}", why=str(error.strerror)) from error
        for name, source in self._copies.items():
            _copy_atomically(source, self._folder / name)
        for name, data in (self._texts | {FILE_NAME: recipe}).items():
            write_atomically(self._folder / name, data)

    def _require_free(self, name: str, sha256: str) -> None:
        target = self._folder / name
        if self._force or not target.exists():
            return
        if not target.is_file() or file_digest(target)[0] != sha256:
            raise Conflict(f"{target} is there already", why="it is another file", hint="--force writes over it")


def _copy_atomically(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        fsync_folder(target.parent)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace(f"cannot write {target.name}", why=str(error.strerror)) from error
        raise InvalidInput(f"cannot copy {source} to {target}", why=str(error.strerror)) from error
    finally:
        temporary.unlink(missing_ok=True)
