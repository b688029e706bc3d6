"""What one model answered to the evaluation data, and the metrics of it.

Only what the metrics need of each frame is kept: probabilities, choices and errors, not the outputs themselves.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray

from dsops.decision import decide
from dsops.errors import InvalidInput, InvalidModel
from dsops.manifest import Postprocessing, Task, TensorSpec, check_task
from dsops_controller.build.data import Array, DataSet
from dsops_controller.build.evaluation import metrics
from dsops_controller.build.evaluation.evaluation import Better

DATA = "the evaluation data"
ANOMALY_LABELS = ("normal", "anomaly")
CustomFunction = Callable[[dict[str, Array], Array | None], float | Mapping[str, float]]

_ROUNDING = 0.01
"""How far beyond 0 and 1 an int8 model's probabilities can lie, for its scale is rounded."""
_LOWER: dict[str, Better] = {"mae": "lower", "rmse": "lower", "ece": "lower", "mean_error": "lower"}


@dataclass(frozen=True)
class CustomMetric:
    """A user's own metric: a function of every output by name, each [N, ...], and the truth. Higher is better.

    It is given copies, so what it writes into them reaches no other metric. What it prints goes to standard error.
    """

    name: str
    function: CustomFunction


@dataclass(frozen=True)
class Question:
    """What the models are asked, and how their answers are judged.

    Attributes:
        task: What the first output means.
        rule: How it is read.
        labels: Names of the classes, in the order of the scores; may be empty when they have none.
        metrics: The user's own metrics, beside those of the task.
    """

    task: Task
    rule: Postprocessing = field(default_factory=Postprocessing)
    labels: tuple[str, ...] = ()
    metrics: tuple[CustomMetric, ...] = ()


@dataclass(frozen=True)
class Answers:
    """One model's answers to ``n`` frames, in their order. What the task does not have is None.

    Attributes:
        scores: Classification: probabilities [n, C]. Reconstruction: the anomaly score [n].
        choices: Index of each frame's label, [n]; of an anomaly 1, else 0.
        absolute: Regression: mean absolute error of each frame, [n].
        squared: Regression: mean squared error of each frame, [n].
        outputs: Every output by name, when a custom metric wants them; else empty.
    """

    scores: Array | None = None
    choices: Array | None = None
    absolute: Array | None = None
    squared: Array | None = None
    outputs: Mapping[str, Array] = field(default_factory=dict)

    def rows(self, which: NDArray[np.bool_]) -> "Answers":
        """Return the answers to some of the frames."""

        def some(part: Array | None) -> Array | None:
            return None if part is None else part[which]

        outputs = {name: values[which] for name, values in self.outputs.items()}
        return Answers(some(self.scores), some(self.choices), some(self.absolute), some(self.squared), outputs)


def answer(question: Question, first: TensorSpec, chunk: DataSet, outputs: Mapping[str, Array]) -> Answers:
    """Return what outputs say of a chunk of frames. ``first`` is the model's first input."""
    values = list(outputs.values())
    decision = decide(question.task, question.rule, [chunk.inputs[first.name]], values)
    absolute = squared = None
    if question.task is Task.REGRESSION and chunk.y is not None:
        gap = values[0].reshape(len(chunk), -1).astype(np.float64) - chunk.y.reshape(len(chunk), -1)
        absolute, squared = np.abs(gap).mean(axis=1), (gap * gap).mean(axis=1)
    return Answers(decision.scores, decision.choices, absolute, squared, dict(outputs) if question.metrics else {})


def join(parts: Sequence[Answers]) -> Answers:
    """Return the answers to all chunks as one."""

    def whole(of: Callable[[Answers], Array | None]) -> Array | None:
        found = [values for values in map(of, parts) if values is not None]
        return np.concatenate(found) if found else None

    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    return Answers(
        whole(lambda part: part.scores),
        whole(lambda part: part.choices),
        whole(lambda part: part.absolute),
        whole(lambda part: part.squared),
        outputs,
    )


def class_names(question: Question, answers: Answers) -> tuple[str, ...]:
    """Return the names of the classes that choices point at; empty when there are no choices."""
    if answers.choices is None:
        return ()
    if question.task is Task.RECONSTRUCTION:
        return ANOMALY_LABELS
    assert answers.scores is not None
    return question.labels or tuple(str(label) for label in range(answers.scores.shape[1]))


def better(name: str) -> Better:
    """Say which direction of a metric is the better one."""
    return _LOWER.get(name, "higher")


def figures_of(question: Question, answers: Answers, y: Array | None) -> dict[str, float]:
    """Return every metric of one model's answers by name, the main one first.

    Without truth there are only a reconstruction's mean error and custom metrics.

    Raises:
        InvalidInput: A custom metric fails, gives no finite number, or one under the name of another figure.
    """
    found: dict[str, float | None] = {}
    if question.task is Task.CLASSIFICATION and y is not None:
        found |= _classification(answers, y)
    elif question.task is Task.REGRESSION and y is not None:
        found |= _regression(answers, y)
    elif question.task is Task.RECONSTRUCTION:
        found |= _reconstruction(answers, y)
    for metric in question.metrics:
        own = _custom(metric, answers.outputs, y)
        taken = [name for name in own if name in found]
        if taken:
            raise InvalidInput(
                f"the metric {metric.name!r} gives {taken[0]!r}", why="another figure has this name", hint="rename it"
            )
        found |= own
    return {name: value for name, value in found.items() if value is not None}


def reliability_of(answers: Answers, y: Array) -> tuple[metrics.ReliabilityBin, ...]:
    """Return a classifier's reliability bins."""
    assert answers.scores is not None
    assert answers.choices is not None
    confidence = np.take_along_axis(answers.scores, answers.choices[:, None], axis=1)[:, 0]
    return metrics.reliability(answers.choices == y, confidence)


def _classification(answers: Answers, y: Array) -> dict[str, float | None]:
    assert answers.scores is not None
    assert answers.choices is not None
    classes = answers.scores.shape[1]
    scores = metrics.class_scores(metrics.confusion_matrix(y, answers.choices, classes))
    found: dict[str, float | None] = {"accuracy": metrics.accuracy(y, answers.choices)}
    if classes > 2 * metrics.TOP:
        found["top5_accuracy"] = metrics.top_accuracy(y, answers.scores)
    found |= {"f1_macro": metrics.f1_macro(scores), "f1_weighted": metrics.f1_weighted(scores)}
    found["auc"] = metrics.auc_one_vs_rest(y, answers.scores)
    if _are_probabilities(answers.scores):
        found["ece"] = metrics.calibration_error(reliability_of(answers, y))
    return found


def _are_probabilities(scores: Array) -> bool:
    """Say whether scores can be read as confidence; those of a network without its last activation cannot."""
    return bool(scores.min() >= -_ROUNDING and scores.max() <= 1.0 + _ROUNDING)


def _regression(answers: Answers, y: Array) -> dict[str, float | None]:
    assert answers.absolute is not None
    assert answers.squared is not None
    squares = float(answers.squared.sum()) * (y.size // len(y))
    return {
        "mae": float(answers.absolute.mean()),
        "rmse": math.sqrt(float(answers.squared.mean())),
        "r2": metrics.r_squared(y, squares),
    }


def _reconstruction(answers: Answers, y: Array | None) -> dict[str, float | None]:
    assert answers.scores is not None
    found: dict[str, float | None] = {}
    if y is not None:
        found["auc"] = metrics.auc(y, answers.scores)
    if y is not None and answers.choices is not None:
        scores = metrics.class_scores(metrics.confusion_matrix(y, answers.choices, 2))
        found |= {"accuracy": metrics.accuracy(y, answers.choices), "f1_macro": metrics.f1_macro(scores)}
    return found | {"mean_error": float(answers.scores.mean())}


def _custom(metric: CustomMetric, outputs: Mapping[str, Array], y: Array | None) -> dict[str, float]:
    given = {name: values.copy() for name, values in outputs.items()}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result: object = metric.function(given, None if y is None else y.copy())
            named = dict(result) if isinstance(result, Mapping) else {"": result}
            found = {f"{metric.name}.{key}" if key != "" else metric.name: _number(named[key]) for key in named}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a metric that leaves must not end the build as if all were well
        raise InvalidInput(f"the metric {metric.name!r} failed", why=f"{type(error).__name__}: {error}") from error
    for name, value in found.items() if found else [(metric.name, "an empty dict")]:
        if isinstance(value, str) or not math.isfinite(value):
            why = f"it returned {value}; a finite number, or a dict of them by name, is needed"
            raise InvalidInput(f"the metric {name!r} gives no number", why=why)
    return {name: float(value) for name, value in found.items()}


def _number(value: object) -> float | str:
    """Return a metric's value as a number, or for the error's text what it is instead."""
    if isinstance(value, np.ndarray):
        return _number(value.item()) if value.size == 1 else f"an array {list(value.shape)}"
    if isinstance(value, SupportsFloat):
        return float(value)
    return "None" if value is None else f"a {type(value).__name__}"


def check_question(question: Question, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check that a model can be asked a question.

    Raises:
        InvalidModel: Its inputs and outputs are not what the task and the labels need.
    """
    try:
        check_task(question.task, question.labels, inputs, outputs)
    except ValueError as error:
        raise InvalidModel(
            "a model whose output does not match its labels"
            if question.labels
            else "a model that does not fit its task",
            why=str(error),
            hint="give one label for each score, in the order of the scores" if question.labels else "",
        ) from error


def check_truth(question: Question, data: DataSet, output: TensorSpec) -> None:
    """Check that there are frames, and that their truth, where it is given, is what the task needs.

    Args:
        question: What is asked.
        data: The evaluation data.
        output: The model's first output.

    Raises:
        InvalidInput: There are no frames, or ``y`` has the wrong shape or dtype or holds a label that does not exist.
    """
    if len(data) == 0:
        raise InvalidInput(f"{DATA} has no frames", hint="give held-out frames")
    if data.y is None:
        return
    if len(data.y) != len(data):
        raise InvalidInput(f"'y' of {DATA} has {len(data.y)} rows", why=f"there are {len(data)} frames")
    if question.task is Task.CLASSIFICATION:
        scores = math.prod(output.shape[1:])
        _check_labels(data.y, question.labels or tuple("01" if scores == 1 else map(str, range(scores))), question.task)
    elif question.task is Task.RECONSTRUCTION:
        _check_labels(data.y, ANOMALY_LABELS, question.task)
    elif question.task is Task.REGRESSION:
        _check_quantities(data.y, output)


def _check_labels(y: Array, labels: Sequence[str], task: Task) -> None:
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise InvalidInput(
            f"'y' of {DATA} is {y.dtype} {list(y.shape)}",
            why=f"a {task} needs the number of one label a frame, int64 [N]",
            hint=_hint(task),
        )
    wrong = np.flatnonzero((y < 0) | (y >= len(labels)))
    if len(wrong):
        row = int(wrong[0])
        raise InvalidInput(
            f"{DATA} has label {int(y[row])} in row {row}",
            why=f"the {len(labels)} labels are numbered 0 ({labels[0]!r}) to {len(labels) - 1} ({labels[-1]!r})",
            hint=_hint(task),
        )


def _check_quantities(y: Array, output: TensorSpec) -> None:
    if y.dtype.kind not in "fiu" or math.prod(y.shape[1:]) != math.prod(output.shape[1:]):
        raise InvalidInput(
            f"'y' of {DATA} is {y.dtype} {list(y.shape)}",
            why=f"the model's output {output.name!r} is [N, {', '.join(map(str, output.shape[1:]))}]",
            hint=_hint(Task.REGRESSION),
        )
    if not np.isfinite(y).all():
        raise InvalidInput(f"'y' of {DATA} holds NaN or infinite values")


def _hint(task: Task) -> str:
    return f"correct 'y', or name another model.task than {str(task)!r}; 'other' leaves 'y' to your own metric"
