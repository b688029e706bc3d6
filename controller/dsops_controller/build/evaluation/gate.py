"""The gate of a build: how much worse than its float model a variant may be.

    [gate]
    max_accuracy_drop = 0.01      # and the keys of Gate, all optional
    max_drop = { iou = 0.02 }     # any metric by name, a custom one too

A key that is given and cannot be judged is an error. What is not given has a default where the task has one and the
data allows it. A drop of exactly what is allowed passes.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from dsops.errors import AccuracyGateFailed, InvalidConfig
from dsops.manifest import Frozen, Task
from dsops_controller.build.evaluation.evaluation import Evaluation, Figure
from dsops_controller.build.evaluation.parity import MAX_PARITY, Parity

MAX_ACCURACY_DROP = 0.01
MIN_AGREEMENT = 0.97
MAX_ERROR_INCREASE = 0.05
MAX_AUC_DROP = 0.01
MIN_COSINE = 0.95
_SLACK = 1e-9
"""Differences of shares of a count carry rounding errors; a drop of exactly what is allowed passes."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Gate(Frozen):
    """How much worse a variant may be, and how good it must be. What is None has no limit, or the task's default.

    Attributes:
        max_accuracy_drop: How much accuracy it may lose (classification: 0.01).
        min_accuracy: The accuracy it must have.
        max_f1_drop: How much macro F1 it may lose.
        max_auc_drop: How much AUC it may lose (reconstruction: 0.01).
        min_auc: The AUC it must have.
        max_mae_increase: How much its mean absolute error may grow, relative to the float model's (regression: 0.05).
        max_mae: The mean absolute error it may have.
        max_mean_error_increase: How much its mean reconstruction error may grow, relative to the float model's
            (reconstruction without both kinds of frames: 0.05).
        min_agreement: Share of frames that both models must label alike (classification: 0.97).
        max_output_difference: Largest absolute difference of any output.
        min_cosine: Cosine similarity that every output must have with the float model's (other tasks without a metric:
            0.95).
        max_class_recall_drop: How much recall any class with ``min_count`` frames may lose.
        max_slice_drop: How much worse the main metric of any slice with ``min_count`` frames may be.
        min_count: Classes and slices with fewer frames are not judged.
        max_parity_error: Largest relative difference of the float TFLite model from the ONNX source (1e-5).
        max_size_bytes: Size of the variant's file.
        max_latency_ms: Median latency of the variant on the machine that builds, with the first number of threads.
        max_drop: How much worse any metric may be, by its name.
    """

    max_accuracy_drop: Share | None = None
    min_accuracy: Share | None = None
    max_f1_drop: Share | None = None
    max_auc_drop: Share | None = None
    min_auc: Share | None = None
    max_mae_increase: Amount | None = None
    max_mae: Amount | None = None
    max_mean_error_increase: Amount | None = None
    min_agreement: Share | None = None
    max_output_difference: Amount | None = None
    min_cosine: Share | None = None
    max_class_recall_drop: Share | None = None
    max_slice_drop: Amount | None = None
    min_count: int = Field(default=10, ge=1)
    max_parity_error: Amount | None = None
    max_size_bytes: int | None = Field(default=None, ge=0)
    max_latency_ms: Amount | None = None
    max_drop: dict[str, Amount] = Field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """One key of the gate, judged.

    Attributes:
        key: The key.
        limit: What it allows.
        figure: What was found.
        passed: Whether that is within the limit.
        where: Which class, slice or output ``figure`` is of, when it is the worst of several.
        is_default: Whether the limit is the task's default.
    """

    key: str
    limit: float
    figure: float
    passed: bool
    where: str = ""
    is_default: bool = False

    @property
    def text(self) -> str:
        """What was found and what is allowed, in one line."""
        sign = ">=" if self.key.startswith("min_") else "<="
        where = f" ({self.where})" if self.where else ""
        return f"{self.key}: {_number(self.figure)}{where}, allowed {sign} {_number(self.limit)}"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class _Found:
    figure: float
    where: str = ""


class _CannotJudge(Exception):
    """A key's figure is not there; the text says why."""


def check(gate: Gate, evaluation: Evaluation, parity: Parity | None = None) -> tuple[Verdict, ...]:
    """Judge a variant by every key that is given, and by the defaults of its task.

    Raises:
        InvalidConfig: A key that is given cannot be judged; the text names it and what is missing.
    """
    given = {key: value for key, value in gate if value is not None and key in _FIGURES}
    defaults = {key: value for key, value in _defaults(evaluation, parity).items() if key not in given}
    verdicts = [_judge(key, limit, gate, evaluation, parity) for key, limit in given.items()]
    verdicts += [_judge(key, limit, gate, evaluation, parity, is_default=True) for key, limit in defaults.items()]
    verdicts += [_judge_drop(name, limit, evaluation) for name, limit in gate.max_drop.items()]
    return tuple(verdicts)


def require_passed(verdicts: tuple[Verdict, ...], variant: str) -> None:
    """Refuse a variant that failed.

    Raises:
        AccuracyGateFailed: It is worse than a key allows; ``why`` holds each such key, its figure and its limit.
    """
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        raise AccuracyGateFailed(
            f"the variant {variant} does not pass its gate",
            why="; ".join(verdict.text for verdict in failed),
            failed=", ".join(verdict.key for verdict in failed),
        )


def _judge(
    key: str, limit: float, gate: Gate, evaluation: Evaluation, parity: Parity | None, *, is_default: bool = False
) -> Verdict:
    try:
        found = _FIGURES[key](gate, evaluation, parity)
    except _CannotJudge as error:
        raise InvalidConfig(f"the gate's key {key} cannot be judged", why=str(error)) from error
    return _verdict(key, limit, found, is_default=is_default)


def _judge_drop(name: str, limit: float, evaluation: Evaluation) -> Verdict:
    key = f"max_drop.{name}"
    try:
        return _verdict(key, limit, _Found(_metric(evaluation, name).drop))
    except _CannotJudge as error:
        raise InvalidConfig(f"the gate's key {key} cannot be judged", why=str(error)) from error


def _verdict(key: str, limit: float, found: _Found, *, is_default: bool = False) -> Verdict:
    slack = _SLACK * max(1.0, abs(limit))
    if key == "max_parity_error":
        slack = 0.0
    passed = found.figure >= limit - slack if key.startswith("min_") else found.figure <= limit + slack
    return Verdict(key, float(limit), float(found.figure), passed, found.where, is_default)


def _defaults(evaluation: Evaluation, parity: Parity | None) -> dict[str, float]:
    """Return the limits of a task that its data lets us judge."""
    found: dict[str, float] = {} if parity is None else {"max_parity_error": MAX_PARITY}
    names = {figure.name for figure in evaluation.figures}
    if evaluation.task is Task.CLASSIFICATION:
        found |= {"max_accuracy_drop": MAX_ACCURACY_DROP} if "accuracy" in names else {}
        return found | {"min_agreement": MIN_AGREEMENT}
    if evaluation.task is Task.REGRESSION and "mae" in names:
        return found | {"max_mae_increase": MAX_ERROR_INCREASE}
    if evaluation.task is Task.RECONSTRUCTION:
        is_judged = "auc" in names
        return found | (
            {"max_auc_drop": MAX_AUC_DROP} if is_judged else {"max_mean_error_increase": MAX_ERROR_INCREASE}
        )
    return found if evaluation.figures else found | {"min_cosine": MIN_COSINE}


def _metric(evaluation: Evaluation, name: str) -> Figure:
    figure = evaluation.figure(name)
    if figure is None:
        known = ", ".join(one.name for one in evaluation.figures) or "none"
        reason = "" if evaluation.has_truth else "the evaluation data has no truth 'y'; "
        raise _CannotJudge(f"{reason}the metric {name!r} was not computed (metrics: {known})")
    return figure


def _drop(name: str) -> "_Reader":
    return lambda gate, evaluation, parity: _Found(_metric(evaluation, name).drop)


def _value(name: str) -> "_Reader":
    return lambda gate, evaluation, parity: _Found(_metric(evaluation, name).after)


def _increase(name: str) -> "_Reader":
    def read(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
        figure = _metric(evaluation, name)
        if figure.before <= 0.0:
            raise _CannotJudge(
                f"the float model's {name} is {_number(figure.before)}; there is nothing to compare with"
            )
        return _Found(figure.after / figure.before - 1.0)

    return read


def _agreement(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
    if evaluation.agreement is None:
        raise _CannotJudge("the models choose no labels: a classification does, or a reconstruction with a threshold")
    return _Found(evaluation.agreement)


def _output_difference(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
    worst = max(evaluation.differences, key=lambda one: one.largest)
    return _Found(worst.largest, f"output {worst.output}")


def _cosine(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
    worst = min(evaluation.differences, key=lambda one: one.cosine)
    return _Found(worst.cosine, f"output {worst.output}")


def _class_drop(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
    return _worst(
        ((row.drop, f"class {row.label}") for row in evaluation.classes if row.support >= gate.min_count),
        f"no class has {gate.min_count} frames (min_count)"
        if evaluation.classes
        else "there are no classes with truth",
    )


def _slice_drop(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
    return _worst(
        ((row.figure.drop, f"{row.slice} = {row.value}") for row in evaluation.slices if row.count >= gate.min_count),
        f"no slice has {gate.min_count} frames (min_count)"
        if evaluation.slices
        else "the evaluation data has no slices, or no metric on them",
    )


def _worst(rows: Iterator[tuple[float, str]], otherwise: str) -> _Found:
    found = list(rows)
    if not found:
        raise _CannotJudge(otherwise)
    drop, where = max(found, key=lambda row: row[0])
    return _Found(drop, where)


def _parity(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
    if parity is None:
        raise _CannotJudge("parity is measured when the source is ONNX")
    return _Found(parity.largest_relative, f"output {parity.worst.output}")


def _size(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
    return _Found(float(evaluation.after.size_bytes))


def _latency(gate: Gate, evaluation: Evaluation, parity: Parity | None) -> _Found:
    if evaluation.measured_after is None or not evaluation.measured_after.latencies:
        raise _CannotJudge("the latency was not measured")
    first = evaluation.measured_after.latencies[0]
    return _Found(first.median_us / 1e3, f"{first.threads} thread{'s' if first.threads > 1 else ''}")


_Reader = Callable[[Gate, Evaluation, Parity | None], _Found]
_FIGURES: dict[str, _Reader] = {
    "max_accuracy_drop": _drop("accuracy"),
    "min_accuracy": _value("accuracy"),
    "max_f1_drop": _drop("f1_macro"),
    "max_auc_drop": _drop("auc"),
    "min_auc": _value("auc"),
    "max_mae_increase": _increase("mae"),
    "max_mae": _value("mae"),
    "max_mean_error_increase": _increase("mean_error"),
    "min_agreement": _agreement,
    "max_output_difference": _output_difference,
    "min_cosine": _cosine,
    "max_class_recall_drop": _class_drop,
    "max_slice_drop": _slice_drop,
    "max_parity_error": _parity,
    "max_size_bytes": _size,
    "max_latency_ms": _latency,
}


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
