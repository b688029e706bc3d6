"""Decides which inputs are kept as samples: for a reason, under a byte budget. Pure: time and chance are passed in.

Each reason has a quarter of the budget. The random share is never lent and knows no minimum gap, so that the random
samples stay a fair picture of the stream. Drift and disagreements may borrow from low confidence. Disagreements know no
gap either: there are few, and each is one of the frames that decide between two models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from dsops.manifest import Frozen
from dsops_agent.drift.monitor import Level

_DAY_S = 86400.0


class Reason(StrEnum):
    """Why an input is kept."""

    DRIFT = "drift"
    LOW_CONFIDENCE = "low_confidence"
    RANDOM = "random"
    DISAGREEMENT = "shadow_disagreement"


SHARES = dict.fromkeys(Reason, 1 / len(Reason))
_BORROWERS = (Reason.DRIFT, Reason.DISAGREEMENT)


class SamplerSettings(Frozen):
    """What may be kept.

    Attributes:
        bytes_per_day: Long-run budget of one model; 0 keeps nothing.
        burst_bytes: What may be kept at once after a quiet time.
        random_rate: Share of all frames that is drawn at random.
        low_confidence: A confidence below this is low.
        min_gap_s: Least time between two samples of the same reason; consecutive frames teach little.
    """

    bytes_per_day: int = Field(default=5_000_000, ge=0)
    burst_bytes: int = Field(default=500_000, ge=0)
    random_rate: float = Field(default=0.01, ge=0, le=1)
    low_confidence: float = Field(default=0.6, ge=0, le=1)
    min_gap_s: float = Field(default=1.0, ge=0)


@dataclass(frozen=True)
class Kept:
    """A decision to keep a frame.

    Attributes:
        score: What it was chosen by: the drift score, ``1 - confidence``, the distance of two answers, or 0 for random.
        inclusion: Probability with which such a frame is kept; 0 when it is unknown.
    """

    reason: Reason
    score: float
    inclusion: float


class TokenBucket:
    """A budget that fills with time. It starts full; a sample larger than the whole bucket needs a full one."""

    def __init__(self, per_second: float, capacity: float, now_s: float) -> None:
        self._per_second = per_second
        self._capacity = capacity
        self._tokens = capacity
        self._at_s = now_s

    def take(self, amount: float, now_s: float) -> bool:
        """Take ``amount`` if it is there; say whether it was."""
        elapsed_s = max(now_s - self._at_s, 0.0)
        self._tokens = min(self._tokens + elapsed_s * self._per_second, self._capacity)
        self._at_s = now_s
        if self._capacity <= 0 or self._tokens < min(amount, self._capacity):
            return False
        self._tokens -= amount
        return True


class Sampler:
    """Chooses samples of one model.

    Args:
        settings: What may be kept.
        chance: Gives a random number in [0, 1).
        now_s: Monotonic time of the start.
    """

    def __init__(self, settings: SamplerSettings, chance: Callable[[], float], now_s: float) -> None:
        self._settings = settings
        self._chance = chance
        rate = settings.bytes_per_day / _DAY_S
        burst = settings.burst_bytes if settings.bytes_per_day else 0
        self._buckets = {reason: TokenBucket(rate * share, burst * share, now_s) for reason, share in SHARES.items()}
        self._last_s: dict[Reason, float] = {}
        self._drawn = 0
        self._drawn_and_kept = 0

    def choose(
        self, now_s: float, size_bytes: int, confidence: float | None, level: Level, drift_score: float
    ) -> Kept | None:
        """Decide on one frame.

        Args:
            now_s: Monotonic time.
            size_bytes: What the sample would take.
            confidence: How sure the model is of the frame, from 0 to 1; None when it does not say.
            level: What the drift monitor says.
            drift_score: Its score.

        Returns:
            Why the frame is kept, or None when it is not.
        """
        if self._chance() < self._settings.random_rate and self._take_random(size_bytes, now_s):
            kept_share = self._drawn_and_kept / self._drawn
            return Kept(Reason.RANDOM, 0.0, self._settings.random_rate * kept_share)
        if level >= Level.WARNING and self._take(Reason.DRIFT, size_bytes, now_s):
            return Kept(Reason.DRIFT, drift_score, 0.0)
        if confidence is None or confidence >= self._settings.low_confidence:
            return None
        if self._take(Reason.LOW_CONFIDENCE, size_bytes, now_s):
            return Kept(Reason.LOW_CONFIDENCE, 1.0 - confidence, 0.0)
        return None

    def choose_disputed(self, now_s: float, size_bytes: int, distance: float) -> Kept | None:
        """Decide on a frame that champion and challenger answer differently; ``distance`` is that of the answers."""
        return Kept(Reason.DISAGREEMENT, distance, 0.0) if self._pay(Reason.DISAGREEMENT, size_bytes, now_s) else None

    def _take_random(self, size_bytes: int, now_s: float) -> bool:
        self._drawn += 1
        taken = self._buckets[Reason.RANDOM].take(size_bytes, now_s)
        self._drawn_and_kept += taken
        return taken

    def _take(self, reason: Reason, size_bytes: int, now_s: float) -> bool:
        last_s = self._last_s.get(reason)
        if last_s is not None and now_s - last_s < self._settings.min_gap_s:
            return False
        taken = self._pay(reason, size_bytes, now_s)
        if taken:
            self._last_s[reason] = now_s
        return taken

    def _pay(self, reason: Reason, size_bytes: int, now_s: float) -> bool:
        if self._buckets[reason].take(size_bytes, now_s):
            return True
        return reason in _BORROWERS and self._buckets[Reason.LOW_CONFIDENCE].take(size_bytes, now_s)
