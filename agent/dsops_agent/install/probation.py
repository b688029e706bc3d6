"""Judges what a bundle did on probation. Pure: figures in, a judgement out.

Each test asks whether what was counted could be chance, were the bundle no worse than it may be. A device looks every
few seconds, by several tests: a bundle that is as good as it may be is rolled back with a probability of at most
``Rules.false_alarms`` in a whole probation (union bound over looks, tests and what each test estimates), provided that
answers are independent of each other. Where they are not, as with the frames of one scene, that is no guarantee; the
limits leave room for it.

Sources:
    Rates: W. Hoeffding, Probability Inequalities for Sums of Bounded Random Variables, JASA 58 (1963). Theorem 1,
    (2.1), a count of ``h`` in ``n`` above its rate ``p`` has a probability of at most ``exp(-n KL(h/n || p))``; by
    (2.3) a rate is below what was observed by more than ``t`` with at most ``exp(-2 n t^2)``.
    Distributions: T. Weissman et al., Inequalities for the L1 Deviation of the Empirical Distribution, HP Laboratories
    HPL-2003-97, Theorem 2.1: with ``k`` bins the total variation distance between what ``n`` answers show and the truth
    is above ``t`` with a probability of at most ``(2^k - 2) exp(-2 n t^2)``.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dsops.errors import ErrorsRose, LatencyRose, OutputsMoved, UnfitModel
from dsops_agent.runtime.figures import Figures

LOOK_S = 2.0
"""How often a bundle on probation is looked at."""
POOLED_BINS = 8
"""Answers are compared in so many bins at most: the most frequent ones of the reference, and the rest as one.

Which those are was known before the first answer, so the bound holds; with more bins it would need more answers.
"""
LEAST_SLOWER_US = 1000.0
"""What a frame may take longer than before in any case: on a loaded host the smallest models vary by more than half."""
_TESTS, _ESTIMATES, _HIGH, _MIDDLE = 4, 2, 0.95, 0.5


@dataclass(frozen=True)
class Rules:
    """What a bundle may do on probation.

    Attributes:
        failures: Share of requests that it may fail at, if the release before did not fail at more.
        slower: How many times the release before's 95th percentile of latency its own may be.
        distance: Total variation distance (0 to 1) by which its answers may differ both from those of the release
            before and from its own reference; 1 admits any.
        false_alarms: Probability at most that a bundle within these limits is rolled back.
    """

    failures: float = 0.02
    slower: float = 2.0
    distance: float = 0.3
    false_alarms: float = 0.001


@dataclass(frozen=True)
class Keep:
    """The probation was passed, if the golden inputs are answered as expected once more."""


@dataclass(frozen=True)
class Watch:
    """Nothing is wrong so far; look again in ``seconds``."""

    seconds: float


@dataclass(frozen=True)
class GoBack:
    """The release before is better."""

    error: UnfitModel


Judgement = Keep | Watch | GoBack


def judge(baseline: Figures | None, figures: Figures, rules: Rules, elapsed_s: float, lasts_s: float) -> Judgement:
    """Return what becomes of a bundle on probation.

    A bundle without traffic has nothing to be judged by but the golden inputs, whose time is held to its budget too.

    Args:
        baseline: What the release before it did, up to the change; None when there was none.
        figures: What the bundle did since.
        rules: What it may do.
        elapsed_s: How long it has been on probation.
        lasts_s: How long a probation lasts.
    """
    looks = 1 + math.ceil(lasts_s / LOOK_S)
    chance = rules.false_alarms / (looks * _TESTS * _ESTIMATES)
    before = baseline or Figures(digest=figures.digest)
    tests: tuple[Callable[[], UnfitModel | None], ...] = (
        lambda: _failures(before, figures, rules, chance),
        lambda: _latency(before, figures, rules, chance),
        lambda: _budget(figures, chance),
        lambda: _answers(before, figures, rules, chance),
    )
    for test in tests:
        error = test()
        if error:
            return GoBack(error)
    return Keep() if elapsed_s >= lasts_s else Watch(max(0.0, min(LOOK_S, lasts_s - elapsed_s)))


def _failures(before: Figures, now: Figures, rules: Rules, chance: float) -> ErrorsRose | None:
    limit = rules.failures
    if before.requests:
        limit = max(limit, before.failures / before.requests + _uncertainty(before.requests, chance))
    if not _is_above(now.failures, now.requests, limit, chance):
        return None
    finite = f", {now.not_finite} by values that are not finite" if now.not_finite else ""
    return ErrorsRose(
        f"the model failed at {now.failures} of {now.requests} requests{finite}",
        why=f"{limit:.3g} of them are allowed; the release before failed at {before.failures} of {before.requests}",
    )


def _latency(before: Figures, now: Figures, rules: Rules, chance: float) -> LatencyRose | None:
    usual_us = _surely_not_exceeded(before, _HIGH, chance)
    if not usual_us:
        return None
    limit_us = max(usual_us * rules.slower, usual_us + LEAST_SLOWER_US, now.budget_ms * 1000)
    why = f"95 of 100 took at most {usual_us / 1000:.3g} ms before"
    return _too_slow(now.slower_than(limit_us), now.frames, limit_us, _HIGH, chance, why)


def _budget(now: Figures, chance: float) -> LatencyRose | None:
    """Judge by the frames of callers and the golden inputs together, for there may be no callers."""
    limit_us, golden = now.budget_ms * 1000, sum(now.golden.values())
    if not limit_us:
        return None
    slow, frames = now.slower_than(limit_us) + now.golden_slower_than(limit_us), now.frames + golden
    return _too_slow(slow, frames, limit_us, _MIDDLE, chance, "that is the budget of its manifest")


def _too_slow(slow: int, frames: int, limit_us: float, share: float, chance: float, why: str) -> LatencyRose | None:
    if not _is_above(slow, frames, 1 - share, chance):
        return None
    what = f"{slow} of {frames} frames took longer than {limit_us / 1000:.3g} ms"
    return LatencyRose(what, why=f"at most {1 - share:.2g} of them may; {why}")


def _answers(before: Figures, now: Figures, rules: Rules, chance: float) -> OutputsMoved | None:
    if before.meaning != now.meaning or len(before.bins) != len(now.bins) or not sum(before.bins) or not sum(now.bins):
        return None
    order = sorted(range(len(now.reference)), key=lambda place: (-now.reference[place], place))
    new, old, usual = (_pooled(counts, order) for counts in (now.bins, before.bins, now.reference))
    from_before, from_usual = _surely_apart(new, old, chance), _surely_apart(new, usual, chance)
    if min(from_before, from_usual) <= rules.distance:
        return None
    return OutputsMoved(
        f"the model's answers are not those that were expected ({now.signal})",
        why=f"their distance is at least {from_before:.2f} from the release before and {from_usual:.2f} from the "
        f"profile, {rules.distance:g} is allowed, after {sum(new)} answers",
    )


def _pooled(counts: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Return counts of the first bins of an order, and of the rest together."""
    if len(order) <= POOLED_BINS:
        return tuple(counts)
    first = [counts[place] for place in order[: POOLED_BINS - 1]]
    return (*first, sum(counts) - sum(first))


def _surely_apart(some: Sequence[int], others: Sequence[int], chance: float) -> float:
    """Return a total variation distance that two distributions have at least, by what was counted of each."""
    total, other_total = sum(some), sum(others)
    seen = sum(abs(a / total - b / other_total) for a, b in zip(some, others, strict=True)) / 2
    choices = math.log(max(2 ** len(some) - 2, 1))
    return seen - sum(math.sqrt((choices - math.log(chance / 2)) / (2 * n)) for n in (total, other_total))


def _surely_not_exceeded(figures: Figures, share: float, chance: float) -> float:
    """Return a time that the true quantile ``share`` does not exceed, by what was counted; 0 after too few frames."""
    frames = figures.frames
    ranks = range(math.ceil(frames * share), frames + 1)
    place = bisect_left(ranks, -math.log(chance), key=lambda rank: frames * divergence(rank / max(frames, 1), share))
    return figures.latency_of_rank(ranks[place]) if place < len(ranks) else 0.0


def _is_above(hits: int, of: int, rate: float, chance: float) -> bool:
    """Return whether a count is too high for chance, were its true rate ``rate``."""
    if not of or hits / of <= rate:
        return False
    return rate <= 0 or of * divergence(hits / of, rate) >= -math.log(chance)


def _uncertainty(of: int, chance: float) -> float:
    return math.sqrt(-math.log(chance) / (2 * of))


def divergence(found: float, rate: float) -> float:
    """Return the Kullback-Leibler divergence, in nats, of two Bernoulli distributions; ``rate`` is above 0."""
    if rate >= 1:
        return 0.0 if found >= 1 else math.inf
    hit = found * math.log(found / rate) if found > 0 else 0.0
    miss = (1 - found) * math.log((1 - found) / (1 - rate)) if found < 1 else 0.0
    return max(0.0, hit + miss)
