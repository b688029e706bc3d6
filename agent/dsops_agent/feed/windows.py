"""Windows over a stream of samples. Pure."""

import numpy as np

from dsops_agent.runtime.litert import Array


class Windows:
    """Cuts a stream, which comes in pieces of any length, into windows of one length that may overlap.

    Args:
        length: Samples of a window.
        stride: Samples from one window's begin to the next one's; more than ``length`` leaves samples out.
    """

    def __init__(self, length: int, stride: int) -> None:
        self._length = length
        self._stride = stride
        self._rest: Array | None = None
        self._skip = 0

    def add(self, piece: Array) -> Array:
        """Return the windows [n, length, ...] that are complete now; n may be 0.

        Args:
            piece: The samples that follow, [k, ...].

        Raises:
            ValueError: Its samples are of another shape than those before.
        """
        skipped = min(self._skip, len(piece))
        self._skip -= skipped
        new = piece[skipped:]
        stream = new if self._rest is None else np.concatenate([self._rest, new])
        count = max(0, (len(stream) - self._length) // self._stride + 1)
        begins = range(0, count * self._stride, self._stride)
        found = [stream[begin : begin + self._length] for begin in begins]
        used = count * self._stride
        self._skip += max(0, used - len(stream))
        self._rest = stream[used:].copy()  # not a view, which would keep all of the piece in memory
        return np.stack(found) if found else np.empty((0, self._length, *piece.shape[1:]), piece.dtype)

    def restart(self) -> None:
        """Forget what was not used: there is a gap in the stream."""
        self._rest, self._skip = None, 0
