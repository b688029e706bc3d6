"""The reference profile: the distribution of each signal on held-out data, against which a device measures drift.

Counts and edges follow the histogram form of e-detectors (Shin, Ramdas, Rinaldo, NEJSDS 2023): an ordinal signal has
``len(edges) + 1`` bins, the first below the smallest and the last above the largest reference value; a categorical one
has a bin a class.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import MalformedBundle
from dsops.manifest import MAX_COUNT, Frozen, Task, TensorSpec, first_problem
from dsops.signals import signals_of

MIN_REFERENCE = 200
MAX_SIGNALS = 64
MAX_BINS = 1024
MAX_HORIZONS = 8
MAX_HORIZON = 100_000

_Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
_Horizon = Annotated[int, Field(strict=True, ge=1, le=MAX_HORIZON)]
_Edge = Annotated[float, Field(ge=-1e300, le=1e300)]
"""The difference of two is finite, too."""


class Signal(Frozen):
    """One watched quantity. ``counts`` has a number a bin; ``edges`` ascend strictly and are empty when categorical."""

    name: str = Field(max_length=64)
    kind: Literal["ordinal", "categorical"]
    edges: tuple[_Edge, ...] = Field(default=(), max_length=MAX_BINS - 1)
    counts: tuple[_Count, ...] = Field(min_length=2, max_length=MAX_BINS)

    @model_validator(mode="after")
    def _bins_fit(self) -> "Signal":
        if any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges of {self.name} do not ascend")
        if self.kind == "categorical" and self.edges:
            raise ValueError(f"{self.name} is categorical and has edges")
        if self.kind == "ordinal" and len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{self.name} has {len(self.counts)} bins for {len(self.edges)} edges")
        return self


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
    """Check that a profile watches exactly the signals of a model, in any order, and knows its classes.

    Raises:
        MalformedBundle: It does not.
    """
    wanted, watched = signals_of(task, inputs), {signal.name: signal.kind for signal in profile.signals}
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
