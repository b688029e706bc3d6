"""When a device may go on: windows over midnight, over the end of the week and over changes of the clocks."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsops.errors import InvalidInput
from dsops_agent.install.maintenance import Conditions, Phase, Rules, Schedule, Window, obstacle, parse

BERLIN = ZoneInfo("Europe/Berlin")
FORWARD, BACK = datetime(2026, 3, 29), datetime(2026, 10, 25)  # noqa: DTZ001 - readings of a wall clock


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> datetime:
    """Return the moment at which a wall clock shows a time."""
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).astimezone(UTC)


def schedule(*windows: str, zone: ZoneInfo = BERLIN) -> Schedule:
    return Schedule(zone, tuple(map(parse, windows)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mon-fri 22:00-05:00", Window(frozenset(range(5)), 1320, 300)),
        ("sat,sun 00:00-24:00", Window(frozenset({5, 6}), 0, 1440)),
        ("02:00-04:30", Window(frozenset(range(7)), 120, 270)),
        ("fri-mon 01:00-02:00", Window(frozenset({4, 5, 6, 0}), 60, 120)),
        ("Mon,Wed-Thu 23:59-00:00", Window(frozenset({0, 2, 3}), 1439, 0)),
    ],
)
def test_a_window_is_read(text: str, expected: Window) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a window"),
        ("22-05", "is not a window"),
        ("mon 22:00-05:00 tue", "is not a window"),
        ("monday 22:00-05:00", "the days are mon"),
        ("mon- 22:00-05:00", "the days are mon"),
        ("mon,,tue 22:00-05:00", "the days are mon"),
        ("22:60-23:00", "no clock shows 22:60"),
        ("22:00-24:01", "no clock shows 24:01"),
        ("25:00-26:00", "no clock shows 25:00"),
        ("05:00-05:00", "it has no length"),
        ("24:00-05:00", "it has no length"),
    ],
)
def test_what_is_no_window_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        parse(text)


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    nights = schedule("mon-fri 22:00-05:00")
    assert not nights.is_open(at("2026-11-23 04:59"))  # a Monday: the night before is Sunday's
    assert not nights.is_open(at("2026-11-23 21:59"))
    assert nights.is_open(at("2026-11-23 22:00"))
    assert nights.is_open(at("2026-11-28 04:59"))  # Saturday, Friday's night
    assert not nights.is_open(at("2026-11-28 05:00"))
    assert not nights.is_open(at("2026-11-28 23:00"))
    assert nights.next_open(at("2026-11-28 05:00")) == at("2026-11-30 22:00")


def test_a_window_over_the_end_of_the_week_wraps() -> None:
    sunday = schedule("sun 23:00-01:00")
    assert sunday.is_open(at("2026-11-29 23:30"))
    assert sunday.is_open(at("2026-11-30 00:59"))
    assert not sunday.is_open(at("2026-11-29 00:30"))
    assert sunday.next_open(at("2026-11-30 01:00")) == at("2026-12-06 23:00")


def test_without_windows_it_is_open_always() -> None:
    assert schedule().is_open(at("2026-11-28 12:00"))
    assert schedule().next_open(at("2026-11-28 12:00")) == at("2026-11-28 12:00")


def test_a_window_in_the_hour_that_is_left_out_comes_a_week_later() -> None:
    sundays = schedule("sun 02:15-02:45")
    assert sundays.next_open(at("2026-03-28 12:00")) == at("2026-04-05 02:15")
    assert schedule("02:15-02:45").next_open(at("2026-03-28 12:00")) == at("2026-03-30 02:15")


def test_a_window_that_begins_in_the_hour_that_is_left_out_begins_after_it() -> None:
    opens = schedule("02:30-04:00").next_open(at("2026-03-28 12:00"))
    assert opens == at("2026-03-29 03:00") == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


def test_a_window_in_the_repeated_hour_comes_twice() -> None:
    window = schedule("02:15-02:45")
    first, second = at("2026-10-25 02:15"), at("2026-10-25 02:15", fold=1)
    assert second - first == timedelta(hours=1)
    assert window.next_open(at("2026-10-25 00:00")) == first
    assert window.next_open(first + timedelta(minutes=30)) == second


def test_a_window_around_the_repeated_hour_stays_open() -> None:
    night = schedule("22:00-05:00")
    began = at("2026-10-24 22:00")
    assert [night.is_open(began + timedelta(minutes=n)) for n in range(8 * 60)] == [True] * 480
    assert not night.is_open(began + timedelta(hours=8))


def test_a_window_that_ends_in_the_repeated_hour_opens_again_when_the_clocks_go_back() -> None:
    window = schedule("01:00-02:30")
    closes = at("2026-10-25 02:30")
    assert not window.is_open(closes)
    assert window.next_open(closes) == at("2026-10-25 02:00", fold=1) == closes + timedelta(minutes=30)


ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kolkata", "UTC"]
MINUTES = st.integers(0, 1439)
WINDOWS = st.builds(
    Window, days=st.frozensets(st.integers(0, 6), min_size=1), begin=MINUTES, end=st.integers(0, 1440)
).filter(lambda w: w.begin != w.end)


@settings(max_examples=120, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    windows=st.lists(WINDOWS, min_size=1, max_size=3),
    start=st.one_of(
        st.datetimes(datetime(2015, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - made aware below
        st.sampled_from([FORWARD, BACK, datetime(2018, 11, 4), datetime(2018, 2, 18)]),  # noqa: DTZ001 - as above
    ),
)
def test_the_next_opening_is_the_first_minute_that_is_open(zone: str, windows: list[Window], start: datetime) -> None:
    """São Paulo put its clocks forward at midnight; Lord Howe Island puts them forward by half an hour."""
    plan = Schedule(ZoneInfo(zone), tuple(windows))
    now = start.replace(second=0, microsecond=0, tzinfo=UTC) - timedelta(hours=5)
    found = plan.next_open(now)
    minutes = (now + timedelta(minutes=n) for n in range(15 * 24 * 60))
    expected = next((minute for minute in minutes if plan.is_open(minute)), None)
    assert found == expected


NOON = at("2026-11-28 12:00")
NIGHTS = Rules(download=schedule("22:00-05:00"), activate=schedule("02:00-03:00"))


def test_the_reason_names_when_a_window_opens() -> None:
    assert obstacle(NIGHTS, Phase.ACTIVATE, NOON, Conditions()) == (
        "activation window opens 2026-11-29 02:00 Europe/Berlin"
    )
    assert (
        obstacle(NIGHTS, Phase.DOWNLOAD, NOON, Conditions()) == "download window opens 2026-11-28 22:00 Europe/Berlin"
    )
    assert obstacle(NIGHTS, Phase.DOWNLOAD, at("2026-11-28 23:00"), Conditions()) == ""


def test_windows_are_closed_to_a_clock_that_cannot_be_trusted_and_urgent_passes() -> None:
    assert "clock cannot be trusted" in obstacle(NIGHTS, Phase.DOWNLOAD, None, Conditions())
    assert obstacle(NIGHTS, Phase.DOWNLOAD, None, Conditions(), urgent=True) == ""
    assert obstacle(Rules(), Phase.DOWNLOAD, None, Conditions()) == ""


@pytest.mark.parametrize(
    ("rules", "host", "why"),
    [
        (Rules(on_power=True), Conditions(on_power=False), "on battery"),
        (Rules(on_power=True), Conditions(), ""),
        (Rules(idle_percent=20), Conditions(cpu_percent=20.0), "not idle: other programs use 20 %"),
        (Rules(idle_percent=20), Conditions(cpu_percent=19.9), ""),
        (Rules(), Conditions(cpu_percent=100.0, on_power=False, temperature_c=99.0, links=("wwan0",)), ""),
        (Rules(metered=("wwan*",)), Conditions(links=("eth0", "wwan0")), "metered link wwan0"),
        (Rules(metered=("wwan*",)), Conditions(links=("eth0",)), ""),
        (Rules(max_temperature_c=70), Conditions(temperature_c=70.5), "hotter than 70 °C"),
        (Rules(max_temperature_c=70), Conditions(temperature_c=70.0), ""),
    ],
)
def test_the_state_of_the_host_counts(rules: Rules, host: Conditions, why: str) -> None:
    found = obstacle(rules, Phase.DOWNLOAD, NOON, host)
    assert found.startswith(why)
    assert bool(found) is bool(why)


def test_a_metered_link_keeps_nobody_from_changing_over() -> None:
    assert obstacle(Rules(metered=("*",)), Phase.ACTIVATE, NOON, Conditions(links=("wwan0",))) == ""


def test_urgent_passes_over_everything_but_the_temperature() -> None:
    rules = Rules(schedule("01:00-02:00"), schedule("01:00-02:00"), True, 1.0, ("*",), 70.0)
    worst = Conditions(on_power=False, cpu_percent=100.0, temperature_c=60.0, links=("ppp0",))
    assert obstacle(rules, Phase.DOWNLOAD, NOON, worst, urgent=True) == ""
    hot = Conditions(temperature_c=71.0)
    assert obstacle(rules, Phase.DOWNLOAD, NOON, hot, urgent=True) == "hotter than 70 °C"
