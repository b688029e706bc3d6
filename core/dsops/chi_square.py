"""Chi-square tests of histograms against a reference, with no numeric package: both sides use them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MIN_USUAL = 2.0
"""Bins of which the reference lets expect fewer frames in the sample are rare: added to the least of the others ..."""
_MIN_SEEN = 6.0
"""... unless so many are seen, which hardly happens by chance."""
_EXCESS = 4.0
"""Excess kurtosis of Laplace noise is 3. Its higher moments ask for more: with 4, false positives are as promised."""
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
        noise: Variance of the discrete Laplace noise that was added to each of the sample's counts. It stands in the
            denominator; and because its tails are longer than those of chance, the statistic is compared with a scaled
            chi-square of the same mean and variance (Satterthwaite, Biometrics 1946).
        thinning: So many frames of the sample count as one, for consecutive frames resemble each other.
    """
    bins = _joined(reference, sample, has_noise=noise > 0.0)
    given, seen = math.fsum(one for one, _ in bins), math.fsum(other for _, other in bins)
    if given <= 0.0 or seen <= 0.0 or len(bins) < 2:
        return Test(0.0, 0, 1.0)
    statistic = spread = 0.0
    for one, other in bins:
        share = max(one + other, 0.5) / (given + seen)
        expected = seen * share
        # The sample's count varies by its own chance, thinned, by the reference's, and by the noise.
        variance = expected * thinning + seen * seen * share / given + noise
        usual = seen * one / given
        statistic += (other - usual) ** 2 / variance
        spread += 2.0 + _EXCESS * (noise / variance) ** 2
    freedom = len(bins) - 1
    scale = spread / (2.0 * len(bins))
    return Test(statistic, freedom, survival(statistic / scale, freedom / scale))


def filled(reference: Sequence[float], sample: Sequence[float], below: int) -> list[float]:
    """Return a sample in which counts below ``below`` were made 0, with what the reference lets expect in their place.

    So they speak neither for a change nor against one. The estimate stays below ``below``.
    """
    share = math.fsum(sample) / max(math.fsum(reference), 1.0)
    return [seen or min(given * share, max(below - 1.0, 0.0)) for given, seen in zip(reference, sample, strict=True)]


def survival(statistic: float, freedom: float) -> float:
    """Return the probability that chi-square is larger (Abramowitz and Stegun, 6.5.29 and 6.5.31)."""
    a, x = freedom / 2.0, statistic / 2.0
    if x <= 0.0 or freedom <= 0.0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    return max(1.0 - scale * _series(a, x), 0.0) if x < a + 1.0 else scale * _fraction(a, x)


def _joined(reference: Sequence[float], sample: Sequence[float], *, has_noise: bool) -> list[tuple[float, float]]:
    """Return pairs of counts; rare bins, for which chi-square does not hold, are added to the least of the others."""
    pairs = list(zip(reference, sample, strict=True))
    if has_noise:
        return pairs
    share = math.fsum(sample) / max(math.fsum(reference), 1.0)
    kept: list[tuple[float, float]] = []
    rest: list[tuple[float, float]] = []
    for one, other in pairs:
        is_common = one * share >= _MIN_USUAL or other >= _MIN_SEEN
        (kept if is_common else rest).append((one, other))
    kept.sort(reverse=True)
    if rest:
        rest += [kept.pop()] if kept else []
        kept.append((math.fsum(one for one, _ in rest), math.fsum(other for _, other in rest)))
    return kept


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
