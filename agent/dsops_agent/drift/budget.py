"""The budget of bytes that samples are kept under: a token bucket a reason. The time is passed in."""

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

R = TypeVar("R")


def unnoted() -> None:
    """Take no note of what is spent."""


class Budget(Generic[R]):
    """Buckets that fill with time, each at its share of the rate and up to its share of the burst; they start full.

    What would overflow a full bucket goes to the bucket named ``overflow``: a share that nobody needs is not lost, and
    no bucket is ever emptied for another. Over any time no more than ``burst + rate * time`` is spent, and besides
    that a debt of one sample a reason, for a sample that is larger than the whole bucket needs a full one. Safe for use
    by several threads: the releases of a model share one.

    Args:
        per_second: Bytes that come in a second.
        burst: Bytes that all buckets hold.
        shares: Share of each reason; their sum is 1.
        overflow: Who gets what others do not need.
        now_s: Monotonic time of the start.
        spent: Called after something was taken.
    """

    def __init__(
        self,
        per_second: float,
        burst: float,
        shares: Mapping[R, float],
        overflow: R,
        now_s: float,
        spent: Callable[[], None] = unnoted,
    ) -> None:
        self._rates = {reason: per_second * share for reason, share in shares.items()}
        self._capacities = {reason: burst * share for reason, share in shares.items()}
        self._tokens = dict(self._capacities)
        self._overflow = overflow
        self._at_s = now_s
        self._spent = spent
        self._lock = threading.Lock()

    def left(self) -> tuple[dict[R, float], float]:
        """Return what each bucket held when it was filled last, and the monotonic time of that."""
        with self._lock:
            return dict(self._tokens), self._at_s

    def go_on(self, tokens: Mapping[R, float], at_s: float) -> None:
        """Go on from what :meth:`left` told, of this boot of the machine; buckets that it does not name stay."""
        with self._lock:
            self._at_s = min(at_s, self._at_s)
            for reason, capacity in self._capacities.items():
                self._tokens[reason] = min(tokens.get(reason, capacity), capacity)

    def take(self, reason: R, amount: float, now_s: float) -> bool:
        """Take ``amount`` if it is there; say whether it was."""
        with self._lock:
            self._fill(now_s)
            capacity = self._capacities[reason]
            if capacity <= 0 or self._tokens[reason] < min(amount, capacity):
                return False
            self._tokens[reason] -= amount
        self._spent()
        return True

    def within(self, reason: R, period_s: float, now_s: float) -> float:
        """Return what may be spent at the end of a time that begins now."""
        with self._lock:
            self._fill(now_s)
            return min(self._tokens[reason] + period_s * self._rates[reason], self._capacities[reason])

    def _fill(self, now_s: float) -> None:
        elapsed_s = max(now_s - self._at_s, 0.0)
        self._at_s = max(now_s, self._at_s)  # a clock that goes back and on again does not give the same time twice
        spare = 0.0
        for reason, rate in self._rates.items():
            filled = self._tokens[reason] + elapsed_s * rate
            self._tokens[reason] = min(filled, self._capacities[reason])
            spare += filled - self._tokens[reason]
        filled = self._tokens[self._overflow] + spare
        self._tokens[self._overflow] = min(filled, self._capacities[self._overflow])
