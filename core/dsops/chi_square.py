"""Chi-square tests of histograms against a reference, with no numeric package: both sides use them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MIN_SEEN = 5.0
"""Bins with fewer frames, in reference and sample together, are tested as one."""
_STEPS = 500
_ENOUGH = 1e-14


@dataclass(frozen=True)
class Test:
    """A statistic, its degrees of freedom, and the probability of a larger one by chance."""

    __test__ = False  # pytest shall not take it for one of its own

    statistic: float
    freedom: int
    p_value: float


def two_samples(
    reference: Sequence[float],
    sample: Sequence[float],
    *,
    noise: float = 0.0,
    thinning: float = 1.0,
) -> Test:
    """Test whether two histograms come from one distribution (Pearson's statistic for two samples).

    Args:
        reference: Counts of the reference.
        sample: Counts of as many bins.
        noise: Variance of the noise that was added to each of the sample's counts; it stands in the denominator.
        thinning: So many frames of the sample count as one, for consecutive frames resemble each other.
    """
    bins = _joined(reference, sample)
    given, seen = math.fsum(one for one, _ in bins), math.fsum(other for _, other in bins)
    if given <= 0.0 or seen <= 0.0 or len(bins) < 2:
        return Test(0.0, 0, 1.0)
    statistic = 0.0
    for one, other in bins:
        share = max(one + other, 0.5) / (given + seen)
        expected = seen * share
        # The sample's count varies by its own chance, thinned, by the reference's, and by the noise.
        variance = expected * thinning + seen * seen * share / given + noise
        usual = seen * one / given
        statistic += (other - usual) ** 2 / variance
    freedom = len(bins) - 1
    return Test(statistic, freedom, survival(statistic, freedom))


def filled(reference: Sequence[float], sample: Sequence[float], below: int) -> list[float]:
    """Return a sample in which counts below ``below`` were made 0, with what the reference lets expect in their place.

    So they speak neither for a change nor against one. The estimate stays below ``below``.
    """
    share = math.fsum(sample) / max(math.fsum(reference), 1.0)
    return [seen or min(given * share, max(below - 1.0, 0.0)) for given, seen in zip(reference, sample, strict=True)]


def survival(statistic: float, freedom: int) -> float:
    """Return the probability that chi-square is larger (Abramowitz and Stegun, 6.5.29 and 6.5.31)."""
    a, x = freedom / 2.0, statistic / 2.0
    if x <= 0.0 or freedom < 1:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    return max(1.0 - scale * _series(a, x), 0.0) if x < a + 1.0 else scale * _fraction(a, x)


def _joined(reference: Sequence[float], sample: Sequence[float]) -> list[tuple[float, float]]:
    pairs = list(zip(reference, sample, strict=True))
    kept = [pair for pair in pairs if sum(pair) >= _MIN_SEEN]
    rest = [pair for pair in pairs if sum(pair) < _MIN_SEEN]
    if rest:
        kept.append((math.fsum(one for one, _ in rest), math.fsum(other for _, other in rest)))
    return [pair for pair in kept if sum(pair) > 0.0]


def _series(a: float, x: float) -> float:
    term = total = 1.0 / a
    for step in range(1, _STEPS):
        term *= x / (a + step)
        total += term
        if term < total * _ENOUGH:
            break
    return total


def _fraction(a: float, x: float) -> float:
    """Return the continued fraction by Lentz's method (Press et al., "Numerical Recipes", section 6.2)."""
    tiny = 1e-300
    b = x + 1.0 - a
    c, d = 1.0 / tiny, 1.0 / b
    value = d
    for step in range(1, _STEPS):
        factor = -step * (step - a)
        b += 2.0
        d = 1.0 / (factor * d + b or tiny)
        c = b + factor / c or tiny
        value *= d * c
        if abs(d * c - 1.0) < _ENOUGH:
            break
    return value
