"""What the sampler keeps, under which budget."""

import pytest

from dsops_agent.drift.monitor import Level
from dsops_agent.drift.sampler import Kept, Reason, Sampler, SamplerSettings, TokenBucket

DAY_S = 86400.0


def never() -> float:
    return 1.0


def always() -> float:
    return 0.0


def test_a_sure_frame_without_drift_is_not_kept() -> None:
    sampler = Sampler(SamplerSettings(), never, 0.0)
    assert sampler.choose(0.0, 300, 0.99, Level.OK, 0.0) is None


def test_each_reason_and_its_score() -> None:
    settings = SamplerSettings(low_confidence=0.6, random_rate=0.5)
    sampler = Sampler(settings, never, 0.0)
    assert sampler.choose(0.0, 300, 0.45, Level.OK, 0.0) == Kept(Reason.LOW_CONFIDENCE, pytest.approx(0.55), 0.0)
    assert sampler.choose(0.0, 300, 0.99, Level.WARNING, 7.5) == Kept(Reason.DRIFT, 7.5, 0.0)
    assert Sampler(settings, always, 0.0).choose(0.0, 300, 0.2, Level.DRIFT, 9.0) == Kept(Reason.RANDOM, 0.0, 0.5)


def test_a_model_that_does_not_say_how_sure_it_is_has_no_unsure_frames() -> None:
    sampler = Sampler(SamplerSettings(low_confidence=1.0, random_rate=0.5), never, 0.0)
    assert sampler.choose(0.0, 300, None, Level.OK, 0.0) is None
    assert sampler.choose(0.0, 300, None, Level.DRIFT, 9.0) == Kept(Reason.DRIFT, 9.0, 0.0)


def test_the_gap_holds_within_a_reason_only() -> None:
    sampler = Sampler(SamplerSettings(min_gap_s=2.0), never, 0.0)
    assert sampler.choose(0.0, 10, 0.1, Level.OK, 0.0) is not None
    assert sampler.choose(1.9, 10, 0.1, Level.OK, 0.0) is None
    drift = sampler.choose(1.9, 10, 0.1, Level.DRIFT, 20.0)
    assert drift is not None
    assert drift.reason is Reason.DRIFT
    assert sampler.choose(2.0, 10, 0.1, Level.OK, 0.0) is not None


def test_random_samples_know_no_gap() -> None:
    sampler = Sampler(SamplerSettings(min_gap_s=1e9), always, 0.0)
    kept = [sampler.choose(0.0, 10, 0.9, Level.OK, 0.0) for _ in range(3)]
    assert [one.reason for one in kept if one] == [Reason.RANDOM] * 3


def keep_all(sampler: Sampler, frames: int, confidence: float, level: Level) -> list[Reason]:
    found = (sampler.choose(0.0, 100, confidence, level, 8.0) for _ in range(frames))
    return [kept.reason for kept in found if kept]


def test_shares_of_the_burst_and_who_may_borrow() -> None:
    settings = SamplerSettings(bytes_per_day=1, burst_bytes=4000, min_gap_s=0.0)
    assert len(keep_all(Sampler(settings, never, 0.0), 99, 0.1, Level.OK)) == 10  # its own quarter
    assert (
        len(keep_all(Sampler(settings, never, 0.0), 99, 0.9, Level.DRIFT)) == 20
    )  # its quarter and that of low confidence
    assert len(keep_all(Sampler(settings, always, 0.0), 99, 0.9, Level.OK)) == 10  # its quarter, never more
    both = Sampler(settings, never, 0.0)
    keep_all(both, 99, 0.1, Level.DRIFT)
    assert keep_all(Sampler(settings, always, 0.0), 5, 0.1, Level.DRIFT) == [Reason.RANDOM] * 5
    assert keep_all(both, 5, 0.1, Level.DRIFT) == []


def test_a_day_of_low_confidence_stays_in_the_budget() -> None:
    settings = SamplerSettings(bytes_per_day=100_000, burst_bytes=10_000, min_gap_s=0.0)
    sampler = Sampler(settings, never, 0.0)
    kept = sum(sampler.choose(float(second), 500, 0.1, Level.DRIFT, 9.0) is not None for second in range(0, 86400, 10))
    spent = kept * 500
    assert 0.5 * 100_000 * 0.99 <= spent <= 0.5 * (100_000 + 10_000)


def test_disagreements_are_kept_up_to_their_share_and_that_of_low_confidence_whatever_the_gap() -> None:
    sampler = Sampler(SamplerSettings(bytes_per_day=1, burst_bytes=4000, min_gap_s=1e9), never, 0.0)
    kept = [sampler.choose_disputed(0.0, 100, 0.7) for _ in range(99)]
    assert [one for one in kept if one] == [Kept(Reason.DISAGREEMENT, 0.7, 0.0)] * 20
    assert len(keep_all(sampler, 99, 0.9, Level.DRIFT)) == 1, "the share of another reason was taken"
    assert sampler.choose_disputed(DAY_S * 2000, 100, 0.2) is not None, "the share does not fill again"


def test_the_inclusion_probability_tells_what_the_budget_refused() -> None:
    refill = Sampler(SamplerSettings(bytes_per_day=86400 * 400, burst_bytes=4000, random_rate=0.1), always, 0.0)
    kept = [refill.choose(float(n // 20), 100, 0.9, Level.OK, 0.0) for n in range(2000)]
    last = [one for one in kept if one][-1]
    assert last.inclusion == pytest.approx(0.1 * 109 / 2000, rel=0.05)


def test_a_bucket_fills_with_time_up_to_its_capacity() -> None:
    bucket = TokenBucket(per_second=10.0, capacity=100.0, now_s=0.0)
    assert bucket.take(100.0, 0.0)
    assert not bucket.take(50.0, 4.9)
    assert bucket.take(50.0, 5.0)
    assert bucket.take(100.0, 1000.0)
    assert not bucket.take(1.0, 1000.0)


def test_a_sample_larger_than_the_bucket_waits_for_a_full_one_and_its_debt_is_paid() -> None:
    bucket = TokenBucket(per_second=10.0, capacity=100.0, now_s=0.0)
    assert bucket.take(300.0, 0.0)
    assert not bucket.take(300.0, 29.9)
    assert bucket.take(300.0, 30.0)


def test_a_clock_that_jumps_back_gives_nothing() -> None:
    bucket = TokenBucket(per_second=10.0, capacity=100.0, now_s=50.0)
    assert bucket.take(100.0, 50.0)
    assert not bucket.take(1.0, 0.0)


@pytest.mark.parametrize(("per_day", "burst"), [(0, 500_000), (5_000_000, 0), (0, 0)])
def test_no_budget_keeps_nothing(per_day: int, burst: int) -> None:
    sampler = Sampler(SamplerSettings(bytes_per_day=per_day, burst_bytes=burst), always, 0.0)
    assert sampler.choose(DAY_S, 1, 0.1, Level.DRIFT, 9.0) is None
