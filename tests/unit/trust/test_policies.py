"""Policies: one ring at a time, a floor that only rises, and the words for it."""

import pytest

from dsops.errors import Conflict, InvalidInput
from dsops.trust import Policy, Ring
from dsops_controller.trust.policies import Wish, changed
from dsops_controller.trust.policy_words import describe, ring_words

SALT = "f00d"
PRESENT = Policy(
    model="digits",
    floor=2,
    rings={"1": Ring(salt="1"), "2": Ring(fraction=0.5, salt="2"), "3": Ring(fraction=0.1, salt="3")},
)


def test_rings_of_other_releases_stay() -> None:
    after = changed(PRESENT, Wish(release=4, fraction=0.05, canary=("cam-1",)), SALT)
    assert after.rings["2"] == PRESENT.rings["2"]
    assert after.rings["3"] == PRESENT.rings["3"]
    assert after.rings["4"] == Ring(fraction=0.05, salt=SALT, canary=("cam-1",))
    assert (after.floor, after.default_ring) == (2, PRESENT.default_ring)


def test_a_wider_ring_holds_every_device_that_it_held() -> None:
    wider = changed(PRESENT, Wish(release=3, fraction=0.4), SALT)
    assert wider.rings["3"].salt == "3"
    devices = [f"cam-{number}" for number in range(2000)]
    inside = {device for device in devices if PRESENT.rings["3"].admits(device)}
    assert 100 < len(inside) < 300
    assert inside <= {device for device in devices if wider.rings["3"].admits(device)}


def test_what_is_not_given_stays() -> None:
    first = changed(PRESENT, Wish(release=3, canary=("cam-9",)), SALT)
    assert first.rings["3"] == Ring(fraction=0.1, salt="3", canary=("cam-9",))
    assert changed(first, Wish(release=3, fraction=1.0), SALT).rings["3"].canary == ("cam-9",)
    assert changed(first, Wish(is_listed_only=True), SALT).default_ring is None
    assert (
        changed(changed(first, Wish(is_listed_only=True), SALT), Wish(is_listed_only=False), SALT).default_ring
        == Ring()
    )
    assert changed(first, Wish(), SALT).rings.keys() == {"2", "3"}


def test_a_floor_rises_and_takes_rings_below_it_away() -> None:
    assert changed(PRESENT, Wish(floor=3), SALT).rings.keys() == {"3"}
    with pytest.raises(Conflict, match="the floor of digits would fall"):
        changed(PRESENT, Wish(floor=1), SALT)
    with pytest.raises(Conflict, match="release 1 of digits is below the floor"):
        changed(PRESENT, Wish(release=1, fraction=0.1), SALT)


@pytest.mark.parametrize("wish", [Wish(fraction=0.1), Wish(canary=("cam-1",)), Wish(release=3, canary=("a b",))])
def test_a_wish_that_says_too_little_is_refused(wish: Wish) -> None:
    with pytest.raises(InvalidInput):
        changed(PRESENT, wish, SALT)


def test_what_changes_is_said_in_words() -> None:
    after = changed(PRESENT, Wish(floor=3, release=3, fraction=0.2, canary=("cam-1",), is_listed_only=True), SALT)
    assert describe(PRESENT, after) == [
        "digits: no release below 3 (now 2)",
        "digits release 1: no line of its own any more (now every device)",
        "digits release 2: no line of its own any more (now 50 % of the devices)",
        "digits release 3: 20 % of the devices and cam-1 (now 10 % of the devices)",
        "digits, every release without a line of its own: no device",
    ]
    assert describe(after, after) == []
    lower = after.model_copy(update={"floor": 1, "rings": {"3": after.rings["3"].model_copy(update={"salt": "other"})}})
    assert describe(after, lower) == [
        "digits: no release below 1 (now 3); THE FLOOR FALLS",
        "digits release 3: 20 % of the devices and cam-1 (now 20 % of the devices and cam-1); other devices are drawn",
    ]


def test_rings_in_words() -> None:
    assert [ring_words(ring) for ring in (None, Ring(fraction=0), Ring(), Ring(fraction=0, canary=("a", "b")))] == [
        "no device",
        "no device",
        "every device",
        "a, b",
    ]
