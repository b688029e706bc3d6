"""How hot the device is. Boards name their sensors as they like, and some have one that reads what cannot be."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Protocol

import psutil

ANY = "*"
LEAST_C, MOST_C = -40.0, 125.0
"""What silicon works at; a sensor that is not connected, or not read yet, says -128, 127 or more."""


class Reading(Protocol):
    """What a sensor says, as psutil has it."""

    @property
    def label(self) -> str:
        """Its name within its chip; may be empty."""
        ...

    @property
    def current(self) -> float:
        """Degrees Celsius."""
        ...


def hottest_c(sensor: str = ANY) -> float:
    """Return the hottest plausible reading of this host, degrees Celsius, or 0.

    Args:
        sensor: Which sensors count; see :func:`hottest_of`.
    """
    return hottest_of(psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}, sensor)


def hottest_of(sensors: Mapping[str, Iterable[Reading]], sensor: str = ANY) -> float:
    """Return the hottest plausible reading, or 0.

    Args:
        sensors: Readings by chip.
        sensor: Pattern of the shell; chips whose name it is count, and those sensors whose chip and label it is, with
            a slash in between.
    """
    found = (
        float(entry.current)
        for chip, entries in sensors.items()
        for entry in entries
        if fnmatchcase(chip, sensor) or fnmatchcase(f"{chip}/{entry.label}", sensor)
    )
    return max((reading for reading in found if LEAST_C < reading < MOST_C), default=0.0)
