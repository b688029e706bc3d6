import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dsops.errors import InvalidInput
from dsops_controller.rollout.plan import Plan, WaveSpec, assign

DEVICES = [f"dev-{i}" for i in range(10)]


def plan(*waves: WaveSpec) -> Plan:
    return Plan(model="digits", release=1, waves=waves)


def test_canary_then_the_rest() -> None:
    waves = assign(plan(WaveSpec(count=1)), DEVICES, "salt")
    assert [len(wave) for wave in waves] == [1, 9]


def test_percentages_are_of_the_whole_cohort() -> None:
    waves = assign(plan(WaveSpec(percent=10), WaveSpec(percent=50)), DEVICES, "salt")
    assert [len(wave) for wave in waves] == [1, 5, 4]


def test_named_devices_go_where_they_are_named() -> None:
    waves = assign(plan(WaveSpec(count=2), WaveSpec(devices=("dev-3",))), DEVICES, "salt")
    assert waves[1] == ("dev-3",)
    assert "dev-3" not in waves[0]


def test_devices_that_are_not_connected_come_last() -> None:
    absent = frozenset(DEVICES[:8])
    waves = assign(plan(WaveSpec(count=1), WaveSpec(count=1)), DEVICES, "salt", absent)
    assert {*waves[0], *waves[1]} == set(DEVICES[8:])
    assert set(waves[2]) == absent


def test_a_stranger_or_a_device_named_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="dev-99"):
        assign(plan(WaveSpec(devices=("dev-99",))), DEVICES, "salt")
    with pytest.raises(InvalidInput, match="two waves"):
        assign(plan(WaveSpec(devices=("dev-1",)), WaveSpec(devices=("dev-1",))), DEVICES, "salt")


def test_a_wave_is_one_kind_of_thing() -> None:
    with pytest.raises(ValidationError):
        WaveSpec(count=1, percent=5)
    with pytest.raises(ValidationError):
        WaveSpec()


@given(
    st.lists(
        st.one_of(
            st.integers(1, 5).map(lambda n: WaveSpec(count=n)), st.integers(1, 100).map(lambda p: WaveSpec(percent=p))
        ),
        max_size=5,
    ),
    st.integers(1, 30),
    st.text(max_size=5),
)
def test_every_device_is_in_exactly_one_wave(specs: list[WaveSpec], number: int, salt: str) -> None:
    devices = [f"d{i}" for i in range(number)]
    waves = assign(plan(*specs), devices, salt)
    assert sorted(name for wave in waves for name in wave) == sorted(devices)
    assert all(waves)
    assert waves == assign(plan(*specs), list(reversed(devices)), salt)
