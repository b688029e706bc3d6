import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops.clock import ManualClock
from dsops.errors import Overloaded, QuotaExceeded
from dsops_controller.server.quotas import LONGEST_PAUSE_MS, QuotaRules, Quotas

RULES = QuotaRules(
    records_per_s=10,
    records_burst=100,
    bytes_per_s=1000,
    bytes_burst=5000,
    calls_per_s=1,
    calls_burst=3,
    device_streams=2,
    streams=3,
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def quotas(clock: ManualClock) -> Quotas:
    return Quotas(RULES, clock)


def pause_ms(quotas: Quotas, device: str = "cam-1") -> int:
    with pytest.raises(QuotaExceeded) as caught:
        quotas.message(device, 0)
    return int(caught.value.details["pause_ms"])


def test_a_batch_larger_than_the_burst_goes_once_and_is_paid_for_after_it(quotas: Quotas, clock: ManualClock) -> None:
    quotas.message("cam-1", 10)
    quotas.records("cam-1", 150)
    told_ms = pause_ms(quotas)
    clock.advance(told_ms / 1000 - 0.2)
    assert pause_ms(quotas) > 0
    clock.advance(0.2)
    quotas.message("cam-1", 10)


def test_one_device_does_not_use_up_what_another_has(quotas: Quotas) -> None:
    quotas.message("cam-1", 1 << 20)
    assert pause_ms(quotas) == LONGEST_PAUSE_MS
    quotas.message("cam-2", 10)


def test_calls_are_bounded_too(quotas: Quotas, clock: ManualClock) -> None:
    for _ in range(3):
        quotas.call("cam-1")
    with pytest.raises(QuotaExceeded, match="more calls"):
        quotas.call("cam-1")
    clock.advance(1.1)
    quotas.call("cam-1")


def test_streams_of_a_device_and_of_all_are_bounded_and_given_back(quotas: Quotas) -> None:
    with quotas.stream("cam-1"), quotas.stream("cam-1"):
        with pytest.raises(QuotaExceeded), quotas.stream("cam-1"):
            pass
        with quotas.stream("cam-2"), pytest.raises(Overloaded) as caught, quotas.stream("cam-3"):
            pass
        assert not isinstance(caught.value, QuotaExceeded)
    with quotas.stream("cam-1"), quotas.stream("cam-1"):
        pass


def test_a_rate_of_nought_sets_no_limit(clock: ManualClock) -> None:
    quotas = Quotas(QuotaRules(records_per_s=0, bytes_per_s=0, calls_per_s=0), clock)
    for _ in range(1000):
        quotas.call("cam-1")
        quotas.message("cam-1", 1 << 30)
        quotas.records("cam-1", 1 << 30)
    usual = Quotas(QuotaRules(), clock)
    usual.records("cam-1", 1 << 30)
    with pytest.raises(QuotaExceeded):
        usual.message("cam-1", 1)


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0, 3)), max_size=200))
def test_in_the_long_run_no_device_gets_more_than_its_rate(sent: list[tuple[int, float]]) -> None:
    clock = ManualClock()
    quotas = Quotas(QuotaRules(records_per_s=10, records_burst=100), clock)
    taken, elapsed_s = 0, 0.0
    for count, gap_s in sent:
        clock.advance(gap_s)
        elapsed_s += gap_s
        try:
            quotas.message("cam-1", 1)
        except QuotaExceeded:
            continue
        quotas.records("cam-1", count)
        taken += count
        assert taken <= 100 + 10 * elapsed_s + 60


def test_devices_that_have_everything_again_are_forgotten(clock: ManualClock) -> None:
    quotas = Quotas(RULES, clock)
    for number in range(10_000):
        quotas.message(f"cam-{number}", 10)
    clock.advance(3600)
    with quotas.stream("cam-7"):
        quotas.message("cam-0", 1 << 30)
        quotas.message("one more", 10)
        assert len(quotas) == 3
        assert pause_ms(quotas, "cam-0") == LONGEST_PAUSE_MS
