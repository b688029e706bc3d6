"""How long the frames of a model take, and which requests are answered before anybody else notices. Pure."""

import math
from collections.abc import Sequence

from dsops_agent.runtime.batches import BATCH_FRAMES

QUICK_US = 200.0
"""What a quick request takes in the interpreter, at most: about what it costs to wake another thread for the others."""
_RISE = 1.1


class Pace:
    """How long a frame usually takes. Safe to call from several threads.

    A single one may take long because others had the processor: the shortest of late counts.
    """

    def __init__(self) -> None:
        self._usual_us = math.inf

    def took(self, latency_us: Sequence[float]) -> None:
        """Take note of how long frames took."""
        self._usual_us = min(self._usual_us * _RISE, *latency_us)

    def is_quick(self, frames: int) -> bool:
        """Return whether so many frames are answered in a moment."""
        return frames < BATCH_FRAMES and frames * self._usual_us <= QUICK_US
