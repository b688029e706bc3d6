"""Which reading counts as the device's temperature."""

from dataclasses import dataclass

import pytest

from dsops_agent.temperature import hottest_c, hottest_of


@dataclass(frozen=True)
class Sensor:
    label: str
    current: float


BOARD = {
    "cpu_thermal": [Sensor("", 61.5)],
    "nvme": [Sensor("Composite", 48.0), Sensor("Sensor 2", 70.0)],
    "wifi": [Sensor("temp1", 127.0), Sensor("temp2", 125.0), Sensor("temp3", 255.0)],
    "rtc": [Sensor("", -128.0), Sensor("", float("nan"))],
}


@pytest.mark.parametrize(
    ("sensor", "hottest"),
    [
        ("*", 70.0),
        ("cpu_thermal", 61.5),
        ("cpu*", 61.5),
        ("nvme/Composite", 48.0),
        ("wifi", 0.0),
        ("rtc", 0.0),
        ("none", 0.0),
    ],
)
def test_what_cannot_be_and_what_is_not_named_does_not_count(sensor: str, hottest: float) -> None:
    assert hottest_of(BOARD, sensor) == hottest


def test_this_host_has_a_temperature_that_can_be_or_none() -> None:
    assert -40 < hottest_c() < 125
    assert hottest_c("no such chip") == 0.0
