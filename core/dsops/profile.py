"""The reference profile: the distribution of each signal on held-out data, against which a device measures drift.

Counts and edges follow the histogram form of e-detectors (Shin, Ramdas, Rinaldo, NEJSDS 2023): an ordinal signal has
``len(edges) + 1`` bins, the first below the smallest and the last above the largest reference value, then one for each
of its ``marks``, and one for values that are missing; a categorical one has a bin a class.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import MalformedBundle
from dsops.manifest import MAX_COUNT, Frozen, Task, TensorSpec, first_problem
from dsops.signals import bin_of, signals_of, signals_of_answers

MIN_REFERENCE = 200
MAX_SIGNALS = 64
MAX_BINS = 1024
MAX_MARKS = 4
MAX_HORIZONS = 8
MAX_HORIZON = 100_000
_ROUNDING = 1e-4
"""Share of a bin that an edge may be off and still be called 0."""

_Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
_Horizon = Annotated[int, Field(strict=True, ge=1, le=MAX_HORIZON)]
_Edge = Annotated[float, Field(ge=-1e300, le=1e300)]
"""The difference of two is finite, too."""


class Signal(Frozen):
    """One watched quantity.

    Attributes:
        name: What it is called; see :mod:`dsops.signals`.
        kind: Whether it is a quantity or a class.
        edges: Of an ordinal signal, strictly ascending.
        marks: Values of an ordinal signal that have a bin of their own, such as a 0 that a dead sensor sends.
        missing: Whether NaN has a bin of its own.
        counts: Reference frames in each bin.
    """

    name: str = Field(max_length=64)
    kind: Literal["ordinal", "categorical"]
    edges: tuple[_Edge, ...] = Field(default=(), max_length=MAX_BINS - 1)
    marks: tuple[_Edge, ...] = Field(default=(), max_length=MAX_MARKS)
    missing: bool = Field(default=False, strict=True)
    counts: tuple[_Count, ...] = Field(min_length=2, max_length=MAX_BINS)

    @model_validator(mode="after")
    def _bins_fit(self) -> "Signal":
        if any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges of {self.name} do not ascend")
        if self.kind == "categorical" and (self.edges or self.marks or self.missing):
            raise ValueError(f"{self.name} is categorical and has edges, marks or a bin for what is missing")
        if len(set(self.marks)) != len(self.marks):
            raise ValueError(f"{self.name} has one mark twice")
        wanted = len(self.edges) + 1 + len(self.marks) + self.missing
        if self.kind == "ordinal" and len(self.counts) != wanted:
            raise ValueError(f"{self.name} has {len(self.counts)} bins instead of {wanted}")
        return self

    def bin(self, value: float) -> int:
        """Return the bin of a value; a class that does not exist falls into the nearest, and NaN into the last."""
        if self.kind == "ordinal":
            return bin_of(self.edges, value, self.marks, missing=self.missing)
        last = len(self.counts) - 1
        return min(max(int(value), 0), last) if math.isfinite(value) else last

    def name_of(self, at: int, labels: Sequence[str] = ()) -> str:
        """Return what a bin holds, in words; ``labels`` are the names of classes."""
        if self.kind == "categorical":
            return labels[at] if at < len(labels) else f"class {at}"
        marks = at - len(self.edges) - 1
        if marks >= len(self.marks):
            return "missing"
        if marks >= 0:
            return f"exactly {self.marks[marks]:g}"
        if at == 0:
            return f"below {self._edge(0)}" if self.edges else "any"
        if at == len(self.edges):
            return f"from {self._edge(at - 1)} on"
        return f"{self._edge(at - 1)} to {self._edge(at)}"

    def _edge(self, at: int) -> str:
        """Return an edge in words; one that misses 0 by the rounding of the reference is 0."""
        gaps = [high - low for low, high in pairwise(self.edges[max(at - 1, 0) : at + 2])]
        is_zero = abs(self.edges[at]) < _ROUNDING * min(gaps, default=0.0)
        return "0" if is_zero else f"{self.edges[at]:.3g}"


class Profile(Frozen):
    """Everything that the drift monitor needs besides the stream.

    Attributes:
        n_ref: Number of reference frames; every signal's counts add up to it.
        signals: What is watched; no name is there twice.
        horizons: Lengths, in fed frames, over which the bet histograms forget; they ascend strictly.
        bet: Weight of the bet against the reference, in (0, 1].
        arl0: Average number of fed frames between false alarms; the alarm threshold is its natural logarithm.
    """

    format: Literal[1] = 1
    n_ref: int = Field(strict=True, ge=MIN_REFERENCE, le=MAX_COUNT)
    signals: tuple[Signal, ...] = Field(min_length=1, max_length=MAX_SIGNALS)
    horizons: tuple[_Horizon, ...] = Field(default=(50, 200, 800), min_length=1, max_length=MAX_HORIZONS)
    bet: float = Field(default=0.5, gt=0, le=1)
    arl0: float = Field(default=1e6, gt=10)

    @model_validator(mode="after")
    def _parts_fit(self) -> "Profile":
        if any(b <= a for a, b in zip(self.horizons, self.horizons[1:], strict=False)):
            raise ValueError("the horizons do not ascend")
        names = [signal.name for signal in self.signals]
        if len(set(names)) != len(names):
            raise ValueError("two signals have one name")
        for signal in self.signals:
            if sum(signal.counts) != self.n_ref:
                raise ValueError(f"{signal.name} counts {sum(signal.counts)} frames of {self.n_ref}")
        return self

    @property
    def alarm_score(self) -> float:
        """Score above which drift is an alarm."""
        return math.log(self.arl0)

    @property
    def warning_score(self) -> float:
        """Score above which the sampler opens its drift share."""
        return math.log(self.arl0) / 2

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return strictjson.dumps(self.model_dump(mode="json"))

    @classmethod
    def decode(cls, data: bytes) -> "Profile":
        """Parse a profile.

        Raises:
            MalformedBundle: It is not a valid profile.
        """
        try:
            return cls.model_validate(strictjson.loads(data))
        except strictjson.JsonRefused as error:
            raise MalformedBundle("the profile is not strict JSON", why=str(error)) from error
        except ValidationError as error:
            raise MalformedBundle("the profile is not valid", why=first_problem(error)) from error


def check_profile(
    profile: Profile,
    task: Task,
    labels: Sequence[str],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> None:
    """Check that a profile watches signals of a model, all of those of its answers, and knows its classes.

    Raises:
        MalformedBundle: It does not.
    """
    known, watched = signals_of(task, inputs), {signal.name: signal.kind for signal in profile.signals}
    wanted = {name: kind for name, kind in known.items() if name in watched} | signals_of_answers(task)
    if watched != wanted:
        wrong = sorted(name for name in watched.keys() | wanted.keys() if watched.get(name) != wanted.get(name))
        first = wrong[0]
        raise MalformedBundle(
            f"the profile does not watch what this {task} is watched for",
            why=f"{first[:64]!r} is {watched.get(first, 'absent')}, but should be {wanted.get(first, 'absent')}",
        )
    classes = max(len(labels), math.prod(outputs[0].shape[1:]), 2)
    for signal in profile.signals:
        if signal.kind == "categorical" and len(signal.counts) != classes:
            raise MalformedBundle(f"the profile knows {len(signal.counts)} classes", why=f"the model has {classes}")
