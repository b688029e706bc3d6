"""What keeps a single frame from showing in the histograms that leave the device.

Either small counts are left out, or noise is added: the difference of two geometric numbers, which is discrete Laplace
noise, makes counts differentially private (Ghosh, Roughgarden and Sundararajan, STOC 2009). It is drawn exactly, by
whole numbers from the system's generator (Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential
Privacy", NeurIPS 2020, algorithms 1 and 2): noise from floating-point logarithms tells more than it should.
"""

import secrets
from collections.abc import Callable, Sequence
from fractions import Fraction

Below = Callable[[int], int]
"""Draws a whole number from 0 to below its argument, each as likely as the others."""


def suppressed(counts: Sequence[int], below: int) -> list[int]:
    """Return counts with 0 for those smaller than ``below``."""
    return [count if count >= below else 0 for count in counts]


def noisy(counts: Sequence[int], epsilon: Fraction, draw: Below = secrets.randbelow) -> list[int]:
    """Return counts with discrete Laplace noise of parameter ``epsilon``: it hides a frame more or less in a bin."""
    return [count + discrete_laplace(epsilon, draw) for count in counts]


def discrete_laplace(epsilon: Fraction, draw: Below = secrets.randbelow) -> int:
    """Draw a whole number ``k`` with probability proportional to ``exp(-epsilon |k|)``."""
    while True:
        size = _geometric(epsilon, draw)
        is_negative = draw(2) == 1
        if size or not is_negative:  # else 0 would come twice as often
            return -size if is_negative else size


def _geometric(epsilon: Fraction, draw: Below) -> int:
    """Draw ``k`` from 0 on with probability proportional to ``exp(-epsilon k)``."""
    scale, unit = epsilon.denominator, epsilon.numerator
    while True:
        rest = draw(scale)
        if _happens(Fraction(rest, scale), draw):
            break
    whole = 0
    while _happens(Fraction(1), draw):
        whole += 1
    return (rest + scale * whole) // unit


def _happens(exponent: Fraction, draw: Below) -> bool:
    """Return true with probability ``exp(-exponent)``, for an exponent from 0 to 1 (von Neumann, 1951)."""
    steps = 1
    while draw(exponent.denominator * steps) < exponent.numerator:
        steps += 1
    return steps % 2 == 1
