"""When a device may fetch, and when it may change over: windows of local time and the state of the host. Pure.

A window is open while the clock on the wall, in the device's time zone, shows a time inside it. So on a day on which
clocks are put forward, a window that lies wholly in the hour that is left out does not come; one that begins in it
begins when the hour is over. When clocks are put back, a window in the repeated hour comes twice, and one around it
stays open. A window over midnight belongs to the day on which it begins.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from dsops.errors import InvalidInput

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_HORIZON_DAYS = 15
"""How far :meth:`Schedule.next_open` looks: a weekly window may fall into the hour that is left out once."""
_WINDOW = re.compile(r"(?:(?P<days>[a-z,-]+) )?(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d)")


class Phase(StrEnum):
    """What a window is for."""

    DOWNLOAD = "download"  # fetch a bundle's bytes
    ACTIVATE = "activate"  # change over to a bundle that was proved


@dataclass(frozen=True)
class Window:
    """One window of a week: on ``days`` (0 is Monday) it begins, and ends on the same day or the next.

    ``begin`` and ``end`` are minutes since midnight; it ends on the next day unless ``end`` is later than ``begin``.
    """

    days: frozenset[int]
    begin: int
    end: int

    def shows(self, weekday: int, minute: int) -> bool:
        """Return whether a wall clock that shows this day and minute is inside."""
        if self.begin < self.end:
            return weekday in self.days and self.begin <= minute < self.end
        before = (weekday - 1) % 7
        return (weekday in self.days and minute >= self.begin) or (before in self.days and minute < self.end)


@dataclass(frozen=True)
class Schedule:
    """Windows in one time zone; without any it is always open."""

    zone: ZoneInfo
    windows: tuple[Window, ...] = ()

    def is_open(self, now: datetime) -> bool:
        """Return whether a window is open."""
        wall = now.astimezone(self.zone)
        return not self.windows or any(w.shows(wall.weekday(), wall.hour * 60 + wall.minute) for w in self.windows)

    def next_open(self, now: datetime) -> datetime | None:
        """Return when a window is open next, ``now`` if one is; None when none comes within two weeks."""
        if self.is_open(now):
            return now
        later = (at for at in self._edges(now) if at > now and self.is_open(at))
        return min(later, default=None)

    def _edges(self, now: datetime) -> Iterator[datetime]:
        """Yield every moment at which a window can open: at its beginning, or when the wall clock jumps into it."""
        first = now.astimezone(self.zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        for day in (first + timedelta(days=number) for number in range(_HORIZON_DAYS)):
            for window in self.windows:
                yield from self._moments(day + timedelta(minutes=window.begin))
            yield from _jumps(min(self._moments(day)), max(self._moments(day + timedelta(days=1))), self.zone)

    def _moments(self, wall: datetime) -> tuple[datetime, ...]:
        """Return the moments for which a reading of the wall clock stands: two in a repeated hour."""
        return tuple(wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1))


def _jumps(begin: datetime, end: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the moment in ``(begin, end]`` at which the zone's offset changes, to the second, if it does."""
    if _offset(begin, zone) == _offset(end, zone):
        return
    while end - begin > timedelta(seconds=1):
        middle = begin + timedelta(seconds=int((end - begin).total_seconds()) // 2)
        begin, end = (middle, end) if _offset(middle, zone) == _offset(begin, zone) else (begin, middle)
    yield end


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()


def parse(text: str) -> Window:
    """Parse a window, for example ``mon-fri 22:00-05:00``, ``sat,sun 00:00-24:00`` or ``02:00-04:00`` (every day).

    Raises:
        InvalidInput: It is none.
    """
    match = _WINDOW.fullmatch(text.strip().lower())
    if match is None:
        raise InvalidInput(f"{text!r} is not a window", hint="write it as: mon-fri 22:00-05:00")
    begin, end = _minute(match["begin"], text), _minute(match["end"], text)
    if begin in (end, _DAY_MINUTES):
        raise InvalidInput(f"{text!r} is not a window", why="it has no length", hint="a whole day is 00:00-24:00")
    return Window(_days(match["days"], text), begin, end)


def _minute(clock: str, text: str) -> int:
    hour, minute = int(clock[:2]), int(clock[3:])
    if minute > 59 or hour * 60 + minute > _DAY_MINUTES:
        raise InvalidInput(f"{text!r} is not a window", why=f"no clock shows {clock}")
    return hour * 60 + minute


def _days(names: str | None, text: str) -> frozenset[int]:
    if names is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in names.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise InvalidInput(f"{text!r} is not a window", why=f"the days are {', '.join(DAYS)}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found |= {(begin + step) % 7 for step in range((end - begin) % 7 + 1)}
    return frozenset(found)


@dataclass(frozen=True)
class Conditions:
    """The host at one moment.

    Attributes:
        on_power: Whether it has external power; true when it has no battery.
        cpu_percent: Share of its processors that other programs used lately.
        temperature_c: Its hottest sensor; 0 when there is none.
        links: The network interfaces that lead to the outside.
    """

    on_power: bool = True
    cpu_percent: float = 0.0
    temperature_c: float = 0.0
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rules:
    """What must hold before a device goes on.

    Attributes:
        download: When it may fetch.
        activate: When it may change over.
        on_power: Whether it needs external power.
        idle_percent: Other programs must use less than this share of the processors; 100 and more: any.
        metered: Patterns of interfaces over which nothing may be fetched.
        max_temperature_c: It must not be hotter; 0 sets no limit.
    """

    download: Schedule = Schedule(ZoneInfo("UTC"))
    activate: Schedule = Schedule(ZoneInfo("UTC"))
    on_power: bool = False
    idle_percent: float = 100.0
    metered: tuple[str, ...] = ()
    max_temperature_c: float = 0.0

    def schedule(self, phase: Phase) -> Schedule:
        """Return the windows of a phase."""
        return self.download if phase is Phase.DOWNLOAD else self.activate

    @property
    def ask_the_host(self) -> bool:
        """Whether the state of the host matters."""
        return self.on_power or self.idle_percent < 100 or bool(self.metered) or self.max_temperature_c > 0


def obstacle(
    rules: Rules,
    phase: Phase,
    now: datetime | None,
    host: Conditions,
    *,
    urgent: bool = False,
    at_hand: bool = False,
) -> str:
    """Return in words why a device may not go on now, or an empty text.

    An urgent bundle passes over everything but the temperature, which protects the device. Without a clock that can be
    trusted no window of time counts as open: it could be the middle of the working day. Such a device gets what is
    urgent, and everything else once its clock is set.

    Download windows and metered links are about the device's link to the network. Reading a bundle that lies on the
    device, for example on a stick that somebody brought, costs that nothing: it passes over both.

    Args:
        rules: What must hold.
        phase: What it is about to do.
        now: The time; None when the host's clock cannot be trusted.
        host: The host now.
        urgent: Whether an operator said that it must not wait.
        at_hand: Whether the bundle lies on the device.
    """
    if rules.max_temperature_c and host.temperature_c > rules.max_temperature_c:
        return f"hotter than {rules.max_temperature_c:g} °C"
    if urgent:
        return ""
    fetches = phase is Phase.DOWNLOAD and not at_hand
    closed = "" if phase is Phase.DOWNLOAD and at_hand else _closed(rules.schedule(phase), phase, now)
    return closed or _busy(rules, host, fetches=fetches)


def _closed(schedule: Schedule, phase: Phase, now: datetime | None) -> str:
    if not schedule.windows:
        return ""
    if now is None:
        return f"{phase} window: the clock cannot be trusted, set it or roll out as urgent"
    if schedule.is_open(now):
        return ""
    opens = schedule.next_open(now)
    name = {Phase.DOWNLOAD: "download", Phase.ACTIVATE: "activation"}[phase]
    if opens is None:
        return f"no {name} window opens within {_HORIZON_DAYS - 1} days"
    return f"{name} window opens {opens.astimezone(schedule.zone):%Y-%m-%d %H:%M} {schedule.zone.key}"


def _busy(rules: Rules, host: Conditions, *, fetches: bool) -> str:
    if rules.on_power and not host.on_power:
        return "on battery"
    if host.cpu_percent >= rules.idle_percent and rules.idle_percent < 100:
        return f"not idle: other programs use {rules.idle_percent:g} % of the processors or more"
    if fetches:
        metered = [link for link in host.links if any(fnmatchcase(link, pattern) for pattern in rules.metered)]
        if metered:
            return f"metered link {metered[0]}"
    return ""
