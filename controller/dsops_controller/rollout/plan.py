"""The plan of a rollout: which devices, in which waves, and what stops it. Pure."""

import hashlib
import math
from collections.abc import Iterable

from pydantic import Field, model_validator

from dsops.errors import InvalidInput
from dsops.manifest import Frozen, Name


class WaveSpec(Frozen):
    """Who is in a wave: named devices, or a number, or a share of the cohort. Exactly one of them."""

    devices: tuple[str, ...] = ()
    count: int | None = Field(default=None, ge=1)
    percent: float | None = Field(default=None, gt=0, le=100)

    @model_validator(mode="after")
    def _one_of(self) -> "WaveSpec":
        if (bool(self.devices), self.count is not None, self.percent is not None).count(True) != 1:
            raise ValueError("a wave names devices, or a count, or a percent")
        return self


class Plan(Frozen):
    """What an operator asks for.

    Attributes:
        variant: Which bundle of the release; empty when it has one only.
        cohort: The devices; empty means every accepted device.
        waves: In order; devices that no wave takes form a last wave of their own.
        max_failures: Number of failed deployments, over the whole rollout, that does not stop it.
        timeout_s: A deployment that has not ended so long after it was started has failed; what a connected device
            waits for its maintenance window does not count.
        urgent: Whether devices pass their maintenance windows over.
        changes_contract: Whether inputs and outputs may be others than those of what devices run now.
    """

    model: Name
    release: int = Field(ge=1)
    variant: str = Field(default="", max_length=32)
    cohort: tuple[str, ...] = ()
    waves: tuple[WaveSpec, ...] = (WaveSpec(count=1),)
    max_failures: int = Field(default=0, ge=0)
    timeout_s: float = Field(default=3600.0, gt=0)
    urgent: bool = False
    changes_contract: bool = False


def assign(
    plan: Plan, cohort: Iterable[str], salt: str, absent: frozenset[str] = frozenset()
) -> tuple[tuple[str, ...], ...]:
    """Return the devices of each wave; every device is in exactly one, empty waves are left out.

    Devices that a wave names are in that wave; the others are drawn in an order that only ``salt`` and their names
    decide, so the same rollout is always the same plan. ``absent`` devices, which are not connected, come last: a
    canary that cannot answer would hold up everybody.

    Raises:
        InvalidInput: A wave names a device outside the cohort, or two waves name the same one.
    """
    everyone = list(dict.fromkeys(cohort))
    named = [name for wave in plan.waves for name in wave.devices]
    strangers = set(named) - set(everyone)
    if strangers:
        raise InvalidInput(f"device {min(strangers)} is not in the cohort", hint="see: dsops device list")
    if len(set(named)) != len(named):
        raise InvalidInput("a device is named by two waves")
    free = sorted(set(everyone) - set(named), key=lambda name: (name in absent, _draw(salt, name)))
    waves = [_take(wave, len(everyone), free) for wave in plan.waves]
    return tuple(tuple(wave) for wave in [*waves, free] if wave)


def _draw(salt: str, name: str) -> bytes:
    return hashlib.sha256(f"{salt}|{name}".encode()).digest()


def _take(wave: WaveSpec, total: int, free: list[str]) -> list[str]:
    if wave.devices:
        return list(wave.devices)
    number = wave.count if wave.count is not None else math.ceil(total * (wave.percent or 0) / 100)
    taken, free[:] = free[:number], free[number:]
    return taken
