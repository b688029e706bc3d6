"""Draws at most one frame of each gap, so that consecutive frames do not fill the budget. Pure.

A stream is cut into blocks that last a gap at least, in time and in frames. Of a block the frame with the smallest key
stays: where keys are exponential with rates ``w``, the smallest of them is exponential with the sum of the rates, and
belongs to each frame in proportion to ``w``, whatever its value. Every second block is passed over, so that two frames
that stay are never closer than the gap; which half it is, chance decides at the start. A block of one frame that has
a gap before and behind it is never passed over. So each frame's probability to take part is known: a half, or one.
"""

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from dsops_agent.drift.reservoir import Item

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gap:
    """Least distance of two frames that stay."""

    seconds: float = 0.0
    frames: int = 1


class Blocks(Generic[T]):
    """Cuts one stream. Offer each frame with its key; what a block leaves comes out when the next one begins.

    Args:
        is_first: Whether the first block takes part; by chance.
    """

    def __init__(self, *, is_first: bool) -> None:
        self._takes_part = is_first
        self._start_s = 0.0
        self._last_s: float | None = None
        self._frames = 0
        self._is_apart = False
        self._weight = 0.0
        self._best: Item[T] | None = None

    def begin(self, now_s: float, gap: Gap) -> Item[T] | None:
        """Note that a frame comes; return what the block before leaves, if this frame begins another."""
        left: Item[T] | None = None
        if not self._frames or self._is_over(now_s, gap):
            left = self.end(now_s, gap)
            self._is_apart = gap.frames <= 1 and (self._last_s is None or now_s - self._last_s >= gap.seconds)
            self._start_s = now_s
        self._last_s = now_s
        self._frames += 1
        return left

    def wants(self, key: float) -> bool:
        """Whether a frame with this key would be the block's."""
        return self._best is None or key < self._best.key

    def add(self, weight: float) -> None:
        """Count the weight of a frame, whether or not it is the block's."""
        self._weight += weight

    def put(self, item: Item[T]) -> None:
        """Make a frame the block's."""
        self._best = item

    def end(self, now_s: float, gap: Gap) -> Item[T] | None:
        """End the block; return what it leaves."""
        is_alone = self._frames == 1 and self._is_apart and self._is_over(now_s, gap)
        best, weight = self._best, self._weight
        self._best, self._weight, self._frames = None, 0.0, 0
        if best is None:
            return None
        takes_part = is_alone or self._takes_part
        self._takes_part ^= not is_alone
        if not takes_part:
            return None
        stands_for = weight / best.weight if best.weight else 0.0
        return replace(best, weight=weight, expansion=best.expansion * stands_for * (1.0 if is_alone else 2.0))

    def _is_over(self, now_s: float, gap: Gap) -> bool:
        return self._frames >= gap.frames and now_s - self._start_s >= gap.seconds
