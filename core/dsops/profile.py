"""The reference profile: the distribution of each signal on held-out data, against which a device measures drift.

Counts and edges follow the histogram form of e-detectors (Shin, Ramdas, Rinaldo, NEJSDS 2023): an ordinal signal has
``len(edges) + 1`` bins, the first below the smallest and the last above the largest reference value; a categorical one
has a bin a class.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from dsops import strictjson
from dsops.errors import MalformedBundle
from dsops.manifest import Frozen, first_problem

MIN_REFERENCE = 200


class Signal(Frozen):
    """One watched quantity. ``counts`` has a number a bin; ``edges`` ascend strictly and are empty when categorical."""

    name: str = Field(max_length=64)
    kind: Literal["ordinal", "categorical"]
    edges: tuple[float, ...] = Field(default=(), max_length=1023)
    counts: tuple[int, ...] = Field(min_length=2, max_length=1024)

    @model_validator(mode="after")
    def _bins_fit(self) -> "Signal":
        if any(b <= a for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges of {self.name} do not ascend")
        if any(count < 0 for count in self.counts):
            raise ValueError(f"a count of {self.name} is negative")
        if self.kind == "categorical" and self.edges:
            raise ValueError(f"{self.name} is categorical and has edges")
        if self.kind == "ordinal" and len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{self.name} has {len(self.counts)} bins for {len(self.edges)} edges")
        return self


class Profile(Frozen):
    """Everything that the drift monitor needs besides the stream.

    Attributes:
        n_ref: Number of reference frames behind each signal's counts.
        horizons: Lengths, in fed frames, over which the bet histograms forget.
        bet: Weight of the bet against the reference, in (0, 1].
        arl0: Average number of fed frames between false alarms; the alarm threshold is its natural logarithm.
    """

    format: Literal[1] = 1
    n_ref: int = Field(ge=MIN_REFERENCE)
    signals: tuple[Signal, ...] = Field(min_length=1, max_length=64)
    horizons: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = Field(
        default=(50, 200, 800), min_length=1, max_length=16
    )
    bet: float = Field(default=0.5, gt=0, le=1)
    arl0: float = Field(default=1e6, gt=10)

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
