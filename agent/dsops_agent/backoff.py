"""How long to wait before the next try: exponential back-off with full jitter.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
"""

from collections.abc import Callable


class Backoff:
    """Waits that grow with failures, each drawn at random below a bound that doubles.

    Args:
        first_s: Bound of the first wait, in seconds.
        most_s: Bound that is never exceeded, in seconds.
        draw: Returns a number in ``[0, 1)``.
    """

    def __init__(self, first_s: float, most_s: float, draw: Callable[[], float]) -> None:
        self._first_s = min(first_s, most_s)
        self._most_s = most_s
        self._draw = draw
        self._bound_s = self._first_s

    def next_s(self) -> float:
        """Return the next wait in seconds, and double the bound; a tenth of the bound is the least."""
        wait_s = self._bound_s * max(0.1, self._draw())
        self._bound_s = min(self._most_s, 2 * self._bound_s)
        return wait_s

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._bound_s = self._first_s
