"""The rule that holds inference back, in simulated time."""

import pytest

from dsops.errors import Throttled
from dsops_agent.runtime.throttle import COOLER_C, HOT_PERCENT, MAX_DELAY_S, Throttle, ThrottleLimits


class Device:
    """A process with one caller after another: each request takes ``cost_s`` of processor time."""

    def __init__(self, limits: ThrottleLimits, cost_s: float) -> None:
        self.throttle = Throttle(limits, 0.0, 0.0)
        self.cost_s = cost_s
        self.now_s = self.cpu_s = 0.0
        self.answered = self.refused = 0

    def ask(self) -> None:
        try:
            self.now_s += self.throttle.admit(self.now_s, self.cpu_s)
        except Throttled:
            self.refused += 1
            self.now_s += MAX_DELAY_S
            return
        self.now_s += self.cost_s
        self.cpu_s += self.cost_s
        self.answered += 1

    def ask_for(self, seconds: float) -> None:
        ends_s = self.now_s + seconds
        while self.now_s < ends_s:
            self.ask()


@pytest.mark.parametrize("percent", [5.0, 25.0, 50.0, 90.0])
@pytest.mark.parametrize("cost_s", [0.001, 0.02, 0.3])
def test_the_share_of_a_core_is_kept_whatever_a_request_costs(percent: float, cost_s: float) -> None:
    device = Device(ThrottleLimits(cpu_percent=percent), cost_s)
    device.ask_for(100.0)
    share = device.cpu_s / device.now_s
    allowed = percent / 100
    assert share <= allowed * (1 + 1 / 100) + cost_s / 100, "after its burst and one request"
    assert share >= allowed * 0.95


def test_without_limits_nothing_waits() -> None:
    device = Device(ThrottleLimits(), 0.01)
    device.ask_for(10.0)
    assert device.cpu_s == pytest.approx(device.now_s)
    assert device.throttle.state(device.now_s).because == ""


def test_below_the_limit_nothing_waits() -> None:
    throttle = Throttle(ThrottleLimits(cpu_percent=50), 0.0, 0.0)
    waits = [throttle.admit(second, second * 0.4) for second in range(1, 60)]
    assert waits == [0.0] * 59
    assert throttle.state(60.0).delayed == 0


def test_a_short_wait_is_a_delay_and_a_long_one_a_refusal_that_says_when_to_come_back() -> None:
    throttle = Throttle(ThrottleLimits(cpu_percent=50), 0.0, 0.0)
    assert throttle.admit(0.0, 0.6) == pytest.approx(0.2)
    with pytest.raises(Throttled) as refused:
        throttle.admit(0.0, 1.0)
    assert "has used its 50 % of a processor core" in str(refused.value)
    assert "1.0 s" in refused.value.hint
    state = throttle.state(0.0)
    assert (state.delayed, state.refused) == (1, 1)
    assert "50 %" in state.because
    assert throttle.state(10.0).because == ""


def test_what_refusals_cost_does_not_hold_inference_back_for_ever() -> None:
    throttle = Throttle(ThrottleLimits(cpu_percent=10), 0.0, 0.0)
    with pytest.raises(Throttled):
        throttle.admit(1.0, 1000.0)
    assert throttle.admit(11.1, 1000.0) == 0.0


def beside_a_greedy_challenger(throttle: Throttle, demand: float, seconds: float = 200.0) -> tuple[float, float, float]:
    """Ask every 10 ms for ``demand`` of a core; return how long champions waited, and what both kinds used."""
    waited_s = champions_s = others_s = spent_s = 0.0
    for turn in range(round(seconds / 0.01)):
        now_s = turn * 0.01
        try:
            waited_s += throttle.admit(now_s, champions_s)
            champions_s += demand * 0.01
        except Throttled:
            waited_s += MAX_DELAY_S
        if throttle.leaves_any(now_s, champions_s, spent_s):
            spent_s = 0.02
            others_s += spent_s
        else:
            spent_s = 0.0
    return waited_s, champions_s, others_s


@pytest.mark.parametrize("demand", [0.0, 0.1, 0.3, 0.45])
def test_a_challenger_gets_what_champions_leave_and_they_never_wait_for_it(demand: float) -> None:
    throttle = Throttle(ThrottleLimits(cpu_percent=50), 0.0, 0.0)
    waited_s, champions_s, others_s = beside_a_greedy_challenger(throttle, demand)
    assert waited_s == 0.0
    assert champions_s == pytest.approx(demand * 200)
    assert others_s > 0
    assert champions_s + others_s <= 0.5 * 200 + 2 * 0.5 + 0.02 + 1e-6, "two bursts and one request above the share"
    assert champions_s + others_s >= 0.95 * 0.5 * 200, "nothing of it is wasted"


def test_a_challenger_gets_next_to_nothing_while_champions_need_everything() -> None:
    throttle = Throttle(ThrottleLimits(cpu_percent=50), 0.0, 0.0)
    _, champions_s, others_s = beside_a_greedy_challenger(throttle, 1.0)
    assert champions_s >= 0.49 * 200
    assert others_s <= 1.0
    assert beside_a_greedy_challenger(Throttle(ThrottleLimits(), 0.0, 0.0), 1.0)[2] > 100, "without a limit it runs"


def test_heat_leaves_a_trickle_until_the_device_is_cooler_by_a_margin() -> None:
    device = Device(ThrottleLimits(max_temperature_c=80), 0.01)
    device.throttle.temperature(80.0)
    device.ask_for(10.0)
    assert device.refused == 0
    device.throttle.temperature(81.0)
    began_s, before = device.now_s, device.cpu_s
    device.ask_for(100.0)
    assert (device.cpu_s - before) / (device.now_s - began_s) == pytest.approx(HOT_PERCENT / 100, rel=0.05)
    assert "81 degrees Celsius, its limit is 80" in device.throttle.state(device.now_s).because
    device.throttle.temperature(80.0 - COOLER_C + 1)
    assert device.throttle.state(device.now_s + 60).because
    device.throttle.temperature(80.0 - COOLER_C)
    assert not device.throttle.state(device.now_s + 60).because
    assert device.throttle.admit(device.now_s, device.cpu_s) == 0.0


def test_heat_lowers_a_share_and_never_lifts_one() -> None:
    for percent, expected in ((50.0, HOT_PERCENT), (4.0, 4.0)):
        device = Device(ThrottleLimits(max_temperature_c=80, cpu_percent=percent), 0.01)
        device.throttle.temperature(90.0)
        device.ask_for(200.0)
        assert device.cpu_s / device.now_s == pytest.approx(expected / 100, rel=0.1)


def test_a_device_without_a_sensor_is_never_hot() -> None:
    throttle = Throttle(ThrottleLimits(max_temperature_c=80), 0.0, 0.0)
    throttle.temperature(0.0)
    assert throttle.admit(1.0, 100.0) == 0.0
