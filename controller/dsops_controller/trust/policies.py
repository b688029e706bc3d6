"""How a model's policy changes: one release's ring at a time, and a floor that only rises. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from dsops.errors import Conflict, InvalidInput
from dsops.ids import device_id
from dsops.trust import Policy, Ring


@dataclass(frozen=True)
class Wish:
    """What shall change in a policy; None leaves a thing as it is.

    Attributes:
        floor: Lowest release that devices accept.
        release: Release whose ring is set by the two that follow.
        fraction: Share of the devices that may have it.
        canary: Devices that may have it all the same.
        is_listed_only: Whether a release without a ring of its own is refused.
    """

    floor: int | None = None
    release: int | None = None
    fraction: float | None = None
    canary: tuple[str, ...] | None = None
    is_listed_only: bool | None = None


def changed(present: Policy, wish: Wish, salt: str) -> Policy:
    """Return the policy as it shall be.

    A ring that exists keeps its salt, so that a wider one holds every device that it held before. Rings of releases
    below the floor go, since no device accepts those.

    Args:
        present: The published policy.
        wish: What shall change.
        salt: Random text for a ring that is new; who cannot know it cannot make up names of devices inside.

    Raises:
        Conflict: The floor would fall, or the release is below it.
        InvalidInput: The wish contradicts itself.
    """
    floor = wish.floor or present.floor
    check_floor(present, floor)
    if wish.release is None and (wish.fraction is not None or wish.canary is not None):
        raise InvalidInput("--fraction and --canary are of one release", hint="say which: --release N")
    if wish.release is not None and wish.release < floor:
        raise Conflict(f"release {wish.release} of {present.model} is below the floor", why=f"the floor is {floor}")
    rings = {number: ring for number, ring in present.rings.items() if not _is_below(number, floor)}
    if wish.release is not None:
        rings[str(wish.release)] = _ring(rings.get(str(wish.release)), wish, salt)
    others = present.default_ring
    if wish.is_listed_only is not None:
        others = None if wish.is_listed_only else present.default_ring or Ring()
    return Policy(model=present.model, floor=floor, default_ring=others, rings=rings)


def check_floor(present: Policy, floor: int) -> None:
    """Check that a floor does not fall.

    Raises:
        Conflict: It would.
    """
    if floor < present.floor:
        raise Conflict(
            f"the floor of {present.model} would fall",
            why=f"{present.floor} is published",
            hint="sign the old content as a new release",
        )


def check_floors(present: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    """Check that no floor falls and no policy vanishes between two sets of policy documents, by target path.

    Raises:
        Conflict: One does.
    """
    for path, data in present.items():
        if path not in after:
            raise Conflict(f"{path} would vanish", why="devices of that model could not decide any more")
        check_floor(Policy.decode(data), Policy.decode(after[path]).floor)


def _ring(present: Ring | None, wish: Wish, salt: str) -> Ring:
    fraction = wish.fraction if wish.fraction is not None else present.fraction if present else 1.0
    canary = wish.canary if wish.canary is not None else present.canary if present else ()
    return Ring(fraction=fraction, salt=present.salt if present else salt, canary=tuple(map(device_id, canary)))


def _is_below(number: str, floor: int) -> bool:
    return number.isdecimal() and int(number) < floor
