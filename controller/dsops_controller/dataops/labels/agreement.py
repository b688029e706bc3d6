"""How far labellers agree: Cohen's kappa and Krippendorff's alpha, each with an interval. Pure.

Cohen, "A coefficient of agreement for nominal scales", 1960; its large-sample error: Fleiss, Cohen, Everitt,
"Large sample standard errors of kappa and weighted kappa", 1969, equation 13. Krippendorff, "Computing
Krippendorff's alpha-reliability", 2011, sections C and D.
"""

import math
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, combinations, permutations
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
Z_95 = 1.959963984540054
_RESAMPLES = 1000
_WORK = 500_000
"""Units that all resamples of one interval may look at together, but for the fewest resamples."""
_FEWEST_RESAMPLES, _FEW = 50, 200
_RATIO_UNITS = 100
_ENDS = 0.025, 0.975


class Scale(StrEnum):
    """What the difference of two labels means."""

    NOMINAL = "nominal"
    """Equal or not."""
    ORDINAL = "ordinal"
    """How many labels were given between the two ranks (Krippendorff 2011, section D)."""
    INTERVAL = "interval"
    """The difference of two numbers."""
    RATIO = "ratio"
    """The difference of two numbers above 0, by their sum."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A coefficient: 1 is agreement always, 0 as by chance; ``low`` and ``high`` hold it with 95 % confidence.

    Attributes:
        value: The coefficient; None when it is not defined, as for one class only.
        low: Lower end; None without a value.
        high: Upper end; None without a value.
        items: Units with two labels or more that it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    items: float


_UNDEFINED = None, None, None


def wilson(hits: float, trials: float, z: float = Z_95) -> tuple[float, float]:
    """Return the interval of a share (Wilson 1927); (0, 1) without a trial."""
    if trials <= 0:
        return 0.0, 1.0
    share, square = hits / trials, z * z / trials
    middle = (share + square / 2) / (1 + square)
    reach = z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return low if hits else 0.0, high if hits < trials else 1.0  # exactly: the two terms may differ by a rounding


def cohen_kappa(table: Mapping[tuple[K, K], float]) -> Estimate:
    """Return Cohen's kappa of a contingency table: how often the first labeller said a and the second b.

    The ends are those of the large-sample error, or of the observed agreement (Wilson) where these are wider: where
    two labellers never disagree, the error alone would claim certainty after three items.
    """
    n = sum(table.values())
    rows: defaultdict[K, float] = defaultdict(float)
    columns: defaultdict[K, float] = defaultdict(float)
    for (a, b), count in table.items():
        rows[a] += count / n
        columns[b] += count / n
    chance = sum(share * columns.get(name, 0.0) for name, share in rows.items())
    if n <= 0 or chance >= 1.0 - 1e-12:
        return Estimate(*_UNDEFINED, items=n)
    observed = sum(count for (a, b), count in table.items() if a == b) / n
    value = (observed - chance) / (1 - chance)
    error = _kappa_error(table, rows, columns, (observed, chance, n))
    ends = [(share - chance) / (1 - chance) for share in wilson(observed * n, n)]
    low, high = min(value - Z_95 * error, ends[0]), max(value + Z_95 * error, ends[1])
    return Estimate(value, max(-1.0, low), min(1.0, high), n)


def _kappa_error(
    table: Mapping[tuple[K, K], float],
    rows: Mapping[K, float],
    columns: Mapping[K, float],
    shares: tuple[float, float, float],
) -> float:
    observed, chance, n = shares
    kappa = (observed - chance) / (1 - chance)
    on = off = 0.0
    for (a, b), count in table.items():
        if a == b:
            on += count / n * (1 - (rows[a] + columns[a]) * (1 - kappa)) ** 2
        else:
            off += count / n * (columns.get(a, 0.0) + rows.get(b, 0.0)) ** 2
    variance = on + (1 - kappa) ** 2 * off - (kappa - chance * (1 - kappa)) ** 2
    return math.sqrt(max(0.0, variance) / n) / (1 - chance)


def krippendorff_alpha(
    units: Sequence[Sequence[float]], scale: Scale, *, resamples: int = _RESAMPLES, seed: int = 1
) -> Estimate:
    """Return Krippendorff's alpha with a bootstrap interval over the units.

    Args:
        units: The labels that each unit was given, as numbers (for classes: their place in the order). Units with fewer
            than two labels say nothing of agreement and are passed over.
        scale: What a difference means.
        resamples: How many resamples the interval rests on; fewer for very many units.
        seed: Of the resamples: the same labels give the same interval.
    """
    draw = random.Random(seed)  # noqa: S311 - resamples, no secrets
    kinds = Counter(tuple(sorted(unit)) for unit in _fewer(units, scale, draw))  # units alike are looked at together
    items, pairs, places = sum(kinds.values()), [_coincidences(unit) for unit in kinds], range(len(kinds))
    value = _alpha(dict(enumerate(kinds.values())), pairs, scale)
    if value is None:
        return Estimate(*_UNDEFINED, items=items)
    weights, count = tuple(accumulate(kinds.values())), max(_FEWEST_RESAMPLES, min(resamples, _WORK // items))
    found = (_alpha(Counter(draw.choices(places, cum_weights=weights, k=items)), pairs, scale) for _ in range(count))
    low, high = _ends(value, sorted(one for one in found if one is not None))
    return Estimate(value, min(low, value), max(high, value), items)


def _fewer(units: Sequence[Sequence[float]], scale: Scale, draw: random.Random) -> Sequence[Sequence[float]]:
    """Return the units that say something; some of them on a ratio scale of many values, where all are compared.

    The coefficient is then that of units drawn at random, and its interval as wide as theirs.
    """
    told = [unit for unit in units if len(unit) >= 2]
    values = {value for unit in told for value in unit}
    return draw.sample(told, _RATIO_UNITS) if scale is Scale.RATIO and len(values) > 2 * _RATIO_UNITS else told


def _ends(value: float, again: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an interval: percentiles of many resamples, or the normal ones of few."""
    if len(again) < 2:
        return value, value
    if len(again) < _FEW:
        spread = Z_95 * statistics.stdev(again)
        return value - spread, min(1.0, value + spread)
    low, high = (again[min(len(again) - 1, int(end * len(again)))] for end in _ENDS)
    return low, high


def _coincidences(unit: Sequence[float]) -> dict[tuple[float, float], float]:
    """Return how often each ordered pair of values stands in a unit, weighted so that the unit counts once a value."""
    found: defaultdict[tuple[float, float], float] = defaultdict(float)
    for pair in permutations(unit, 2):
        found[pair] += 1 / (len(unit) - 1)
    return found


def _alpha(
    times: Mapping[int, int], pairs: Sequence[Mapping[tuple[float, float], float]], scale: Scale
) -> float | None:
    """Return alpha of units that count so many times; None when all labels are one."""
    together: defaultdict[tuple[float, float], float] = defaultdict(float)
    for number, count in times.items():
        for pair, weight in pairs[number].items():
            together[pair] += count * weight
    totals: defaultdict[float, float] = defaultdict(float)
    for (a, _), weight in together.items():
        totals[a] += weight
    n = sum(totals.values())
    where = _places(totals, scale)
    expected = _expected(totals, where, scale)
    if n < 2 or expected <= 0.0:
        return None
    observed = sum(weight * _distance(where[a], where[b], scale) for (a, b), weight in together.items())
    return 1 - (n - 1) * observed / expected


def _places(totals: Mapping[float, float], scale: Scale) -> dict[float, float]:
    """Return where each value stands: on an ordinal scale at the middle of its ranks."""
    if scale is not Scale.ORDINAL:
        return {value: value for value in totals}
    places, below = {}, 0.0
    for value in sorted(totals):
        places[value] = below + totals[value] / 2
        below += totals[value]
    return places


def _distance(a: float, b: float, scale: Scale) -> float:
    if scale is Scale.NOMINAL:
        return float(a != b)
    if scale is Scale.RATIO:
        return ((a - b) / (a + b)) ** 2 if a + b else 0.0
    return (a - b) ** 2


def _expected(totals: Mapping[float, float], place: Mapping[float, float], scale: Scale) -> float:
    """Return the distance of all values from all: in one pass, but on a ratio scale."""
    n = sum(totals.values())
    if scale is Scale.RATIO:
        counts = [(value, count) for value, count in totals.items() if value]
        zeros = n - sum(count for _, count in counts)  # as far as can be from all but themselves
        pairs = ((a - b) ** 2 / (a + b) ** 2 * m * k for (a, m), (b, k) in combinations(counts, 2))
        return 2 * (math.fsum(pairs) + zeros * (n - zeros))
    if scale is Scale.NOMINAL:
        return n * n - sum(count * count for count in totals.values())
    mean = sum(count * place[value] for value, count in totals.items()) / n if n else 0.0
    return 2 * n * sum(count * (place[value] - mean) ** 2 for value, count in totals.items())
