"""What the sampler keeps, for which reason, under which budget."""

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from dsops_agent.drift.budget import Budget
from dsops_agent.drift.monitor import Level
from dsops_agent.drift.sampler import (
    SHARES,
    Frame,
    Kept,
    Reason,
    Sampler,
    SamplerSettings,
    WatchRule,
    Wish,
    new_budget,
)

DAY_S = 86400.0


def make(settings: SamplerSettings, seed: int = 1, **more: object) -> Sampler[int]:
    return Sampler(settings, random.Random(seed).random, new_budget(settings, 0.0), **more)  # type: ignore[arg-type]


def offer(sampler: Sampler[int], count: int, frame: Callable[[int], Frame]) -> list[Kept[int]]:
    """Offer frames whose content is their number; return those that come out at once."""
    at_once = (sampler.offer(frame(number), lambda number=number: number) for number in range(count))  # type: ignore[misc]
    return [kept for kept in at_once if kept]


def reasons(kept: list[Kept[int]]) -> Counter[Reason]:
    return Counter(one.reason for one in kept)


def test_the_shares_are_a_whole() -> None:
    assert set(SHARES) == set(Reason)
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_each_reason_and_what_it_tells() -> None:
    settings = SamplerSettings(random_rate=0.5, min_gap_s=0.0)
    sampler = make(settings)
    offer(sampler, 40, lambda n: Frame(n, 300, 0.45, level=Level.WARNING if n > 20 else Level.OK, oddness=n))
    assert sampler.release(40.0) == [], "the period is not over"
    kept = sampler.release(999.0)
    found = {reason: [one for one in kept if one.reason is reason] for reason in Reason}
    assert all(one.score == 0.0 and one.inclusion == 0.5 for one in found[Reason.RANDOM])
    assert all(one.score == pytest.approx(0.55) == one.weight for one in found[Reason.UNCERTAIN])
    assert all(one.inclusion == 1.0 for one in found[Reason.UNCERTAIN]), "everything fits, and nothing was left out"
    assert len(found[Reason.UNCERTAIN]) == 40
    assert sampler.release(9000.0) == []


def test_drift_is_sampled_while_the_monitor_warns_and_the_oddest_come_first() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, uncertain_below=0.0, min_gap_s=0.0, burst_bytes=15_000))
    offer(sampler, 300, lambda n: Frame(n, 300, 0.9, level=Level(n >= 100), oddness=(n * 37) % 300))
    kept = sampler.release(2000.0)
    assert [one.reason for one in kept] == [Reason.DRIFT] * 10
    oddest = sorted((((n * 37) % 300 for n in range(100, 300))), reverse=True)[:10]
    assert [one.score for one in kept] == oddest
    assert all(one.inclusion == 0.0 for one in kept), "what is chosen by a score has no probability"


def test_a_frame_is_not_kept_as_odd_that_is_kept_already() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, min_gap_s=0.0))
    offer(sampler, 10, lambda n: Frame(n, 300, 0.5, level=Level.DRIFT, oddness=n))
    assert reasons(sampler.release(2000.0)) == {Reason.UNCERTAIN: 10}


def test_unsure_frames_are_drawn_far_more_often_than_sure_ones() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, min_gap_s=0.0, burst_bytes=100_000))
    offer(sampler, 10_000, lambda n: Frame(n / 100, 1000, 0.5 if n % 100 == 0 else 0.99))
    kept = sampler.release(1000.0)
    assert len(kept) in (40, 41), "the share of the burst, and what came in since"
    unsure = sum(one.score == 0.5 for one in kept)
    assert unsure > 5, "1 % of the frames have a third of all weight"


def test_a_model_that_does_not_say_how_sure_it_is_has_no_unsure_frames() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, min_gap_s=0.0))
    offer(sampler, 10, lambda n: Frame(n, 300, None if n % 2 else math.nan))
    assert sampler.release(2000.0) == []


@pytest.mark.parametrize("fps", [1, 30])
def test_the_gap_in_time_and_in_frames_is_never_broken(fps: int) -> None:
    settings = SamplerSettings(random_rate=0.0, min_gap_s=2.0, bytes_per_day=10**9, burst_bytes=10**8)
    for seed in range(20):
        sampler = make(settings, seed)
        offer(
            sampler, 1000, lambda n: Frame(n / fps, 100, (n % 7) / 10, level=Level.DRIFT, oddness=n % 5, gap_frames=4)
        )
        kept = sampler.release(2000.0)
        for reason in (Reason.UNCERTAIN, Reason.DRIFT):
            numbers = sorted(one.content for one in kept if one.reason is reason)
            apart = [later - before for before, later in pairwise(numbers)]
            assert len(numbers) > 1000 / max(4, 2 * fps) / 4
            assert min(apart) > 4
            assert min(apart) / fps >= 2.0


def test_single_frames_with_a_gap_between_them_all_take_part() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, min_gap_s=2.0))
    offer(sampler, 20, lambda n: Frame(n * 10.0, 100, 0.5))
    kept = sampler.release(2000.0)
    assert (len(kept), {one.inclusion for one in kept}) == (20, {1.0})


@pytest.mark.slow
def test_sums_over_the_samples_estimate_sums_over_the_stream_without_bias() -> None:
    """Those of the random and of the uncertain ones, with gaps and without, over many runs."""
    chance = random.Random(9)
    stream = [chance.uniform(0.0, 0.95) for _ in range(400)]
    values = [(1 - confidence) ** 2 + number / 1000 for number, confidence in enumerate(stream)]
    for gap_s, gap_frames in ((0.0, 1), (0.5, 1), (0.0, 5)):
        settings = SamplerSettings(random_rate=0.3, min_gap_s=gap_s, burst_bytes=40_000, bytes_per_day=1000)
        estimates: dict[Reason, list[float]] = {Reason.RANDOM: [], Reason.UNCERTAIN: []}
        for seed in range(300):
            sampler = make(settings, seed * 7919 + 3)
            offer(sampler, 400, lambda n, frames=gap_frames: Frame(n / 10, 800, stream[n], gap_frames=frames))  # type: ignore[misc]
            kept = sampler.release(2000.0)
            for reason, found in estimates.items():
                found.append(sum(values[one.content] / one.inclusion for one in kept if one.reason is reason))
                assert 3 < sum(one.reason is reason for one in kept) < 100, "everything was kept: this tests nothing"
        for reason, found in estimates.items():
            mean = math.fsum(found) / len(found)
            error = math.sqrt(math.fsum((one - mean) ** 2 for one in found)) / len(found)
            assert abs(mean - sum(values)) < 4 * error, (reason, gap_s, gap_frames, mean / sum(values))
            assert error < 0.03 * sum(values)


@pytest.mark.slow
def test_frames_that_are_alike_count_as_one_and_the_estimates_stay_true() -> None:
    """Half of the stream is one picture that stands still."""
    estimates = []
    for seed in range(300):
        sampler = make(
            SamplerSettings(random_rate=0.0, min_gap_s=0.0, burst_bytes=20_000, bytes_per_day=1000),
            seed * 7919 + 3,
            print_of=lambda number: number if number % 2 else 0,
        )
        offer(sampler, 200, lambda n: Frame(n / 10, 400, 0.6 if n % 2 else 0.8))
        kept = sampler.release(2000.0)
        still = [one for one in kept if one.content % 2 == 0]
        assert len(still) == 1
        assert still[0].repeats == 99
        estimates.append(sum(1 / one.inclusion for one in kept))
    mean = math.fsum(estimates) / len(estimates)
    error = math.sqrt(math.fsum((one - mean) ** 2 for one in estimates)) / len(estimates)
    assert abs(mean - 200) < 4 * error < 20


def test_frames_that_are_alike_are_all_kept_if_that_is_wanted() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, min_gap_s=0.0, deduplicate=False), print_of=lambda number: 0)
    offer(sampler, 20, lambda n: Frame(n, 100, 0.5))
    assert len(sampler.release(2000.0)) == 20


def test_random_samples_know_no_gap_and_no_likeness() -> None:
    sampler = make(SamplerSettings(random_rate=1.0, uncertain_below=0.0, min_gap_s=1e9), print_of=lambda number: 0)
    offer(sampler, 30, lambda n: Frame(0.0, 10, 0.9))
    assert reasons(sampler.release(2000.0)) == {Reason.RANDOM: 30}


def test_a_rule_makes_frames_worth_more() -> None:
    rare = WatchRule(classes=("rare",), above=0.5, below=0.95, weight=50.0)
    settings = SamplerSettings(random_rate=0.0, min_gap_s=0.0, burst_bytes=100_000, watch=(rare,))

    def frame(number: int) -> Frame:
        return Frame(number / 100, 1000, 0.9, "rare" if number % 100 == 0 else "usual")

    with_rule, without = make(settings), make(settings.model_copy(update={"watch": ()}))
    for sampler in (with_rule, without):
        offer(sampler, 10_000, frame)
    found, usual = (sum(one.content % 100 == 0 for one in s.release(1000.0)) for s in (with_rule, without))
    assert usual < 5 < found
    assert not rare.meets("usual", 0.9)
    assert not rare.meets("rare", 0.95)
    assert rare.meets("rare", 0.5)


def test_who_asks_gets_the_next_frames_until_there_are_enough() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, uncertain_below=0.0, min_gap_s=2.0))
    sampler.want([Wish("r-1", 3)])
    kept = offer(sampler, 20, lambda n: Frame(float(n), 100, 0.99))
    assert [(one.reason, one.requested_by, one.content) for one in kept] == [
        (Reason.REQUEST, "r-1", n) for n in (0, 2, 4)
    ]


def test_two_who_ask_take_turns_and_what_is_late_is_forgotten() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, uncertain_below=0.0, min_gap_s=0.0))
    sampler.want([Wish("a", 100, until_s=4.5), Wish("b", 100)])
    kept = offer(sampler, 10, lambda n: Frame(float(n), 100, 0.99))
    assert [one.requested_by for one in kept] == ["a", "b", "a", "b", "a", "b", "b", "b", "b", "b"]


def test_who_asks_does_not_get_more_than_the_share() -> None:
    sampler = make(SamplerSettings(random_rate=0.0, min_gap_s=0.0, bytes_per_day=1, burst_bytes=10_000))
    sampler.want([Wish("a", 100)])
    assert len(offer(sampler, 100, lambda n: Frame(float(n), 100, 0.1))) == 10


def test_disagreements_come_at_once_up_to_their_share() -> None:
    sampler = make(SamplerSettings(bytes_per_day=1, burst_bytes=10_000, min_gap_s=1e9))
    kept = [sampler.disputed(0.0, 100, 0.7, lambda: 5) for _ in range(99)]
    assert [one for one in kept if one] == [Kept(Reason.DISAGREEMENT, 0.7, 5)] * 10
    assert sampler.disputed(DAY_S * 2000, 100, 0.2, lambda: 5) is not None, "the share does not fill again"


def test_no_reason_takes_the_share_of_another() -> None:
    sampler = make(SamplerSettings(bytes_per_day=1, burst_bytes=10_000, min_gap_s=0.0, random_rate=1.0))
    sampler.want([Wish("a", 1000)])
    for _ in range(99):
        sampler.disputed(0.0, 100, 0.7, lambda: 5)
    at_once = offer(sampler, 1000, lambda n: Frame(n / 10, 100, 0.1, level=Level.DRIFT, oddness=n))
    found = reasons(sampler.release(1000.0))
    assert (found[Reason.RANDOM], found[Reason.UNCERTAIN], len(at_once)) == (20, 40, 10)
    assert 0 < found[Reason.DRIFT] <= 20


def test_a_period_goes_on_until_the_budget_pays_for_what_is_held() -> None:
    settings = SamplerSettings(bytes_per_day=86_400, burst_bytes=1000, min_gap_s=0.0, random_rate=0.0, period_s=60.0)
    sampler = make(settings)  # of uncertain: 0.4 bytes a second, 400 at most
    offer(sampler, 2, lambda n: Frame(n * 30.0, 350, 0.5))
    assert len(sampler.release(61.0)) == 1
    offer(sampler, 100, lambda n: Frame(61.0 + n, 350, 0.5))
    assert sampler.release(130.0) == [], "the budget does not pay"
    assert sampler.holds == 1
    offer(sampler, 500, lambda n: Frame(161.0 + n, 350, 0.5))
    (kept,) = sampler.release(1000.0)
    assert kept.inclusion == pytest.approx(1 / 600, rel=0.9), "it stands for every frame of the longer period"


def test_at_the_end_of_the_process_nothing_is_held_back() -> None:
    sampler = make(SamplerSettings(min_gap_s=1.0, random_rate=1.0))
    offer(sampler, 5, lambda n: Frame(n * 2.0, 100, 0.5))
    assert sampler.holds > 0
    assert len(sampler.release(10.0, is_end=True)) == 10
    assert sampler.holds == sampler.holds_bytes == 0


@pytest.mark.parametrize(("per_day", "burst"), [(0, 500_000), (5_000_000, 0), (0, 0)])
def test_no_budget_keeps_nothing(per_day: int, burst: int) -> None:
    sampler = make(SamplerSettings(bytes_per_day=per_day, burst_bytes=burst, random_rate=1.0))
    sampler.want([Wish("a", 5)])
    assert offer(sampler, 50, lambda n: Frame(DAY_S + n, 1, 0.1, level=Level.DRIFT, oddness=9.0)) == []
    assert sampler.release(3 * DAY_S, is_end=True) == []
    assert sampler.disputed(DAY_S, 1, 0.5, lambda: 1) is None


@pytest.mark.slow
@pytest.mark.parametrize("size_bytes", [300, 20_000])
def test_caps_hold_over_thirty_days_of_everything(size_bytes: int) -> None:
    """All reasons at once, quiet times and bursts, and a clock that jumps; also of frames larger than a bucket."""
    settings = SamplerSettings(bytes_per_day=200_000, burst_bytes=20_000, random_rate=0.2, min_gap_s=1.0)
    sampler = make(settings)
    chance = random.Random(3)
    sampler.want([Wish("all", 10**9)])
    spent: Counter[Reason] = Counter()
    now_s, days, most_held = 0.0, 30, 0
    while now_s < days * DAY_S:
        kept: list[Kept[int] | None] = []
        for _ in range(chance.choice((1, 1, 40))):
            now_s += chance.choice((0.05, 1.0, 30.0))
            confidence = chance.random()
            frame = Frame(now_s, size_bytes, confidence, "", Level(chance.random() < 0.5), chance.random())
            kept.append(sampler.offer(frame, lambda: 0))
            kept.append(sampler.disputed(now_s, size_bytes, 0.5, lambda: 0) if confidence < 0.3 else None)
        jump_s = chance.choice((0.0, 0.0, 0.0, -900.0, 3600.0))
        now_s += jump_s
        kept += sampler.release(now_s)
        for one in kept:
            if one is not None:
                spent[one.reason] += size_bytes
        most_held = max(most_held, sampler.holds_bytes)
    paid = settings.bytes_per_day * days + settings.burst_bytes
    assert sum(spent.values()) <= paid + len(Reason) * size_bytes
    assert sum(spent.values()) > 0.5 * paid, "hardly anything was kept: this tests nothing"
    for reason in Reason:
        assert spent[reason] > 0.5 * SHARES[reason] * paid - size_bytes, f"{reason} did not get its share"
        if reason is not Reason.UNCERTAIN:
            assert spent[reason] <= SHARES[reason] * paid + size_bytes, f"{reason} took more than its share"
    assert most_held <= settings.burst_bytes + len(Reason) * size_bytes, "the memory has no bound"


def test_fifty_releases_a_day_spend_no_more_than_one() -> None:
    """A sampler of a new release goes on with what the one before left; what that one held is paid from the same."""
    settings = SamplerSettings(
        bytes_per_day=100_000, burst_bytes=20_000, random_rate=1.0, min_gap_s=0.0, period_s=600.0, deduplicate=False
    )
    budget = new_budget(settings, 0.0)
    spent, releases, days, seconds_each = 0, 100, 2, 1728
    for release in range(releases):
        sampler: Sampler[int] = Sampler(settings, random.Random(release).random, budget)
        for second in range(seconds_each):
            now_s = float(release * seconds_each + second)
            sampler.offer(Frame(now_s, 500, 0.4), lambda: 0)
            spent += 500 * len(sampler.release(now_s))
            spent += 500 if sampler.disputed(now_s, 500, 0.5, lambda: 0) else 0
        spent += 500 * len(sampler.release(now_s, is_end=True))
    paid = settings.bytes_per_day * days + settings.burst_bytes
    assert 0.5 * paid < spent <= paid + len(Reason) * 500


def bucket(per_second: float, capacity: float, now_s: float) -> Budget[str]:
    return Budget(per_second, capacity, {"all": 1.0}, "all", now_s)


def test_a_bucket_fills_with_time_up_to_its_capacity() -> None:
    budget = bucket(10.0, 100.0, 0.0)
    assert budget.take("all", 100.0, 0.0)
    assert not budget.take("all", 50.0, 4.9)
    assert budget.take("all", 50.0, 5.0)
    assert budget.take("all", 100.0, 1000.0)
    assert not budget.take("all", 1.0, 1000.0)


def test_a_sample_larger_than_the_bucket_waits_for_a_full_one_and_its_debt_is_paid() -> None:
    budget = bucket(10.0, 100.0, 0.0)
    assert budget.take("all", 300.0, 0.0)
    assert not budget.take("all", 300.0, 29.9)
    assert budget.take("all", 300.0, 30.0)


def test_a_clock_that_jumps_back_gives_nothing_and_no_time_twice() -> None:
    budget = bucket(10.0, 100.0, 50.0)
    assert budget.take("all", 100.0, 50.0)
    assert not budget.take("all", 1.0, 0.0)
    assert not budget.take("all", 1.0, 50.0)
    assert budget.take("all", 100.0, 60.0)


def test_what_overflows_is_somebodys_else_and_nothing_more() -> None:
    budget = Budget(10.0, 100.0, {"idle": 0.5, "busy": 0.5}, "busy", 0.0)
    assert budget.take("busy", 50.0, 0.0)
    assert not budget.take("busy", 50.0, 4.9)
    assert budget.take("busy", 50.0, 5.0), "the share of the idle one, which is full, is lost"
    assert budget.take("idle", 50.0, 5.0), "the idle one's own was taken"
    assert not budget.take("idle", 10.0, 6.0)
