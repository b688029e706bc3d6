"""What comparing a variant with its float model found, as values.

What depends on the machine (latency, memory, time of operators) stands in :class:`Measured`, apart from everything
else, which is the same wherever it is computed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dsops.manifest import Task
from dsops_controller.build.evaluation.metrics import Difference, ReliabilityBin
from dsops_controller.build.evaluation.operators import ModelCost, OperatorCost

Better = Literal["higher", "lower"]
Matrix = tuple[tuple[int, ...], ...]

WHOLE_MATRIX = 100
"""A confusion matrix of more classes than this is not kept; the tables of classes say where a variant fell behind."""


@dataclass(frozen=True)
class Figure:
    """One metric of both models. ``before`` is the float model's, ``after`` the variant's."""

    name: str
    before: float
    after: float
    better: Better = "higher"

    @property
    def drop(self) -> float:
        """How much worse the variant is, in the metric's own unit; below zero when it is better."""
        return self.before - self.after if self.better == "higher" else self.after - self.before

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"float": self.before, "variant": self.after, "drop": self.drop, "better": self.better}


@dataclass(frozen=True)
class ClassFigures:
    """One model's precision, recall and F1 of one class."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassRow:
    """One class: how many frames are of it, and how well each model finds them."""

    label: str
    support: int
    before: ClassFigures
    after: ClassFigures

    @property
    def drop(self) -> float:
        """How much recall the variant lost."""
        return self.before.recall - self.after.recall

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        models = {"float": asdict(self.before), "variant": asdict(self.after)}
        return {"label": self.label, "support": self.support, **models, "recall_drop": self.drop}


@dataclass(frozen=True)
class SliceRow:
    """The frames of one slice that share a value, and the main metric on them."""

    slice: str
    value: str
    count: int
    figure: Figure

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        where = {"slice": self.slice, "value": self.value, "count": self.count}
        return {**where, "metric": self.figure.name, **self.figure.as_dict()}


@dataclass(frozen=True)
class Confusion:
    """How often frames of each class (row) were given each label (column), by both models."""

    before: Matrix
    after: Matrix


@dataclass(frozen=True)
class Reliability:
    """How sure both models are, and how often they are right."""

    before: tuple[ReliabilityBin, ...]
    after: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Latency:
    """Time of one inference, setting the inputs and reading the outputs included, in microseconds.

    ``edges`` are those of ``counts``, a histogram up to the 99th percentile at most; what is slower is in its last bin.
    """

    threads: int
    repeats: int
    smallest_us: float
    median_us: float
    p95_us: float
    p99_us: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Memory:
    """Resident memory of a fresh process: with the interpreter imported, and at most when a model is loaded and run."""

    base_bytes: int
    peak_bytes: int

    @property
    def model_bytes(self) -> int:
        """What the model added at most."""
        return self.peak_bytes - self.base_bytes


@dataclass(frozen=True)
class Measured:
    """What one model costs on this machine.

    Attributes:
        latencies: One for each number of threads that was asked for, in that order.
        memory: None where the system does not tell.
        operator_us: Median time of each operator run by itself, in the order of the graph; None where it cannot be.
    """

    latencies: tuple[Latency, ...]
    memory: Memory | None
    operator_us: tuple[float | None, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """The comparison of one variant with its float model on one set of frames.

    Attributes:
        task: What the first output means.
        frames: Number of frames.
        has_truth: Whether the truth of the frames is known.
        figures: Every metric, the main one first.
        agreement: Share of frames that both models label alike; None when the task has no labels.
        differences: How far each output is apart.
        classes: One row a class, for a classification with truth, or anomalies with a threshold and truth.
        confusion: None when there are no classes, or too many.
        reliability: None when there are no probabilities or no truth.
        slices: The main metric by slice.
        before: Size and operators of the float model.
        after: The same of the variant.
        measured_before: What the float model costs on this machine; None when that was not asked for.
        measured_after: The same of the variant.
    """

    task: Task
    frames: int
    has_truth: bool
    figures: tuple[Figure, ...]
    agreement: float | None
    differences: tuple[Difference, ...]
    classes: tuple[ClassRow, ...]
    confusion: Confusion | None
    reliability: Reliability | None
    slices: tuple[SliceRow, ...]
    before: ModelCost
    after: ModelCost
    measured_before: Measured | None = None
    measured_after: Measured | None = None

    def figure(self, name: str) -> Figure | None:
        """Return a metric, or None when it was not computed."""
        return next((figure for figure in self.figures if figure.name == name), None)

    @property
    def main(self) -> Figure | None:
        """The metric that the slices show; None when there is none."""
        return self.figures[0] if self.figures else None

    def summary(self) -> dict[str, float]:
        """Return the figures for a manifest: those that are the same on every machine, by name.

        A metric's name is the variant's figure; ``float_`` before it is the float model's.
        """
        found = {f"float_{figure.name}": figure.before for figure in self.figures}
        found |= {figure.name: figure.after for figure in self.figures}
        if self.agreement is not None:
            found["agreement"] = self.agreement
        found["max_output_difference"] = max(one.largest for one in self.differences)
        found["evaluation_frames"] = float(self.frames)
        return found | {"float_bytes": float(self.before.size_bytes), "bytes": float(self.after.size_bytes)}

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form of what is the same on every machine."""
        return {
            "task": str(self.task),
            "frames": self.frames,
            "has_truth": self.has_truth,
            "metrics": {figure.name: figure.as_dict() for figure in self.figures},
            "agreement": self.agreement,
            "output_differences": [asdict(one) for one in self.differences],
            "classes": _all(self.classes),
            "confusion": _pair(self.confusion),
            "reliability": _pair(self.reliability),
            "slices": _all(self.slices),
            "float": self.before.as_dict(),
            "variant": self.after.as_dict(),
        }


@dataclass(frozen=True)
class KindCost:
    """All operators of one kind together; ``alone_us`` is the sum of their times, each run by itself."""

    name: str
    number: int
    macs: int
    weight_bytes: int
    alone_us: float | None


def by_kind(cost: ModelCost, measured: Measured | None) -> tuple[KindCost, ...]:
    """Return the operators of a model by kind, those that take most time first, or else those with most MACs."""
    times = measured.operator_us if measured is not None and measured.operator_us else (None,) * len(cost.operators)
    kinds: dict[str, list[tuple[OperatorCost, float | None]]] = {}
    for one, taken in zip(cost.operators, times, strict=True):
        kinds.setdefault(one.kind, []).append((one, taken))
    found = [_kind(name, members) for name, members in kinds.items()]
    return tuple(sorted(found, key=lambda kind: (-(kind.alone_us or 0.0), -kind.macs, kind.name)))


def _kind(name: str, members: Sequence[tuple[OperatorCost, float | None]]) -> KindCost:
    times = [taken for _, taken in members if taken is not None]
    return KindCost(
        name=name,
        number=len(members),
        macs=sum(one.macs for one, _ in members),
        weight_bytes=sum(one.weight_bytes for one, _ in members),
        alone_us=sum(times) if times else None,
    )


def _all(rows: Sequence[ClassRow | SliceRow]) -> list[dict[str, Any]]:
    return [row.as_dict() for row in rows]


def _pair(both: Confusion | Reliability | None) -> dict[str, Any] | None:
    if both is None:
        return None
    found = asdict(both)
    return {"float": found["before"], "variant": found["after"]}
