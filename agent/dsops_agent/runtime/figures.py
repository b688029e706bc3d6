"""What a served bundle did lately, in figures: counted in the data process, judged in the control process.

Latency is counted in the buckets of :mod:`dsops_agent.runtime.histogram` at a fixed scale: bucket ``i`` holds times in
``(2^(i/4), 2^((i+1)/4)]`` microseconds, so that a limit is known within 19 %.
"""

from collections.abc import Mapping

from pydantic import Field, ValidationError

from dsops.errors import InvalidInput
from dsops.manifest import Frozen, Sha256, first_problem

LATENCY_SCALE = 2
_BASE = 2 ** (2**-LATENCY_SCALE)
MAX_LATENCY_BUCKET = 31 << LATENCY_SCALE
"""Times above half an hour count as that."""


class Figures(Frozen):
    """What one bundle did since its activation, or lately if that is long ago.

    Attributes:
        digest: The bundle.
        requests: Requests that it was asked and that were well formed.
        failures: Those of them that it could not answer, wrong values among them.
        not_finite: Those of the failures whose answer held NaN or infinity.
        frames: Frames answered, but for those that running several together is tried with.
        latency: Frames by the bucket of their time in the interpreter.
        golden: Golden inputs asked since the activation, by the bucket of their time in the interpreter.
        signal: What ``bins`` counts: the signal of the bundle's profile that describes its answer best.
        meaning: Digest of what the bins stand for; of two bundles only bins of one meaning can be compared.
        bins: Answers by bin.
        reference: The same of the data that the bundle was built with.
        budget_ms: The manifest's limit of the median time of a frame; 0 sets none.
        idle_s: Seconds since it answered last, or since its activation.
    """

    digest: Sha256
    requests: int = Field(default=0, ge=0)
    failures: int = Field(default=0, ge=0)
    not_finite: int = Field(default=0, ge=0)
    frames: int = Field(default=0, ge=0)
    latency: Mapping[int, int] = {}
    golden: Mapping[int, int] = {}
    signal: str = ""
    meaning: str = ""
    bins: tuple[int, ...] = ()
    reference: tuple[int, ...] = ()
    budget_ms: float = Field(default=0.0, ge=0)
    idle_s: float = Field(default=0.0, ge=0)

    @classmethod
    def parse(cls, fields: object) -> "Figures":
        """Return the figures that JSON holds.

        Raises:
            InvalidInput: It holds none.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise InvalidInput("these are no figures of a served bundle", why=first_problem(error)) from error

    def slower_than(self, limit_us: float) -> int:
        """Return how many frames took longer than a limit for certain: those of buckets that lie above it whole."""
        return _above(self.latency, limit_us)

    def golden_slower_than(self, limit_us: float) -> int:
        """Return of how many golden inputs the same is certain."""
        return _above(self.golden, limit_us)

    def latency_us(self, share: float) -> float:
        """Return the time that ``share`` of the frames did not exceed, rounded up to a bucket's end; 0 for none."""
        return self.latency_of_rank(share * self.frames)

    def latency_of_rank(self, rank: float) -> float:
        """Return the end of the bucket of the ``rank``-th fastest frame; 0 when there are no frames."""
        seen = 0
        for bucket in sorted(self.latency):
            seen += self.latency[bucket]
            if seen >= rank:
                return upper_us(bucket)
        return 0.0


def _above(counts: Mapping[int, int], limit_us: float) -> int:
    return sum(count for bucket, count in counts.items() if lower_us(bucket) >= limit_us)


def lower_us(bucket: int) -> float:
    """Return the time that all of a bucket's frames exceeded."""
    return float(_BASE**bucket)


def upper_us(bucket: int) -> float:
    """Return the time that none of a bucket's frames exceeded."""
    return lower_us(bucket + 1)
