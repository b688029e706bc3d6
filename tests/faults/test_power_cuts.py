"""The power is cut at the calls that matter, on file systems that lose what was not synced.

Quiet: nothing but the device uses the disk. Noise: something else has the file system commit its journal just before,
so that a rename is on disk while the data of the renamed file are not. The second finds what the first forgives.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_crew import Crew, Tally, crew
from fault_disks import KINDS

pytestmark = pytest.mark.faults

LATER = ["rollback", "collect", "delta", "cancel", "pardon", "scrub"]
HARSH = [kind for kind in KINDS if kind != "ext4"]
"""Plain ext4 writes a renamed file's data before the name: what is safe where that is off is safe there as well."""
LIKE = ("write", "pwrite64", "openat")
"""Calls of which there are many alike: without ``FAULTS=all`` the power is cut at every fourth of them."""
ALL = os.environ.get("FAULTS") == "all"
EVERY = 1 if ALL else 4
SHORT = 60
"""A story of so few calls is cut at each of them."""
SPARSE = 1 if ALL else 4
"""Unsafe installers need not be caught at every point: the end, and every fourth point before."""


@pytest.fixture(scope="module", params=KINDS)
def disks(request: pytest.FixtureRequest, arena: Path, kit: Path, needs_loop: None) -> Iterator[tuple[str, Crew]]:
    """Workers with a disk of one kind each."""
    kind = request.param
    with crew(kit, arena / kind.replace(" ", "-")) as made:
        made.each("disk", kind=kind)
        yield kind, made


def requests_of(made: Crew, story: str, slots: str, *, noise: bool) -> list[dict[str, Any]]:
    """Return a cut at each chosen call, and one after the end."""
    found = made.ask("points", story=story, slots=slots)
    every = EVERY if len(found) > SHORT else 1
    points = [(call, number) for call, number, _ in found if call not in LIKE or number % every == 0]
    common = {"story": story, "slots": slots, "noise": noise, "fault": "SIGKILL"}
    return [common | {"call": call, "number": number} for call, number in [*points, ("", 0)]]


@pytest.mark.parametrize("noise", [False, True])
def test_a_power_cut_during_an_install_loses_nothing(disks: tuple[str, Crew], tally: Any, noise: bool) -> None:
    found, requests = cuts(disks, tally, "install", noise=noise)
    assert found.examples == []
    assert (found.missed, found.points) == (0, requests)


@pytest.mark.parametrize("disks", KINDS if ALL else HARSH, indirect=True, scope="module")
@pytest.mark.parametrize("story", LATER)
def test_a_power_cut_loses_nothing(disks: tuple[str, Crew], tally: Any, story: str) -> None:
    for noise in (False, True) if ALL else (True,):
        found, requests = cuts(disks, tally, story, noise=noise)
        assert found.examples == []
        assert (found.missed, found.points) == (0, requests)


def cuts(disks: tuple[str, Crew], tally: Any, story: str, *, noise: bool) -> tuple[Tally, int]:
    """Cut the power at every chosen moment of a story; return what came of it, and how many those were."""
    kind, made = disks
    requests = requests_of(made, story, "real", noise=noise)
    assert len(requests) > 25
    found: Tally = tally(f"power cut, {kind}, {'noise' if noise else 'quiet'}, {story}")
    for request, result in made.strike(requests):
        found.add(request, result)
    return found, len(requests)


@pytest.mark.parametrize("slots", ["overwrite in place", "rename without fsync", "flip without fsync"])
def test_an_unsafe_installer_is_caught(disks: tuple[str, Crew], tally: Any, slots: str) -> None:
    kind, made = disks
    calm = made.ask("fault", story="install", fault="SIGKILL", slots=slots)
    assert (calm["bricked"], calm["lost"]) == ([], []), "it fails without a power cut, too: that proves nothing"
    caught = 0
    for noise in (False, True):
        found = tally(f"UNSAFE {slots}, {kind}, {'noise' if noise else 'quiet'}")
        for request, result in made.strike(requests_of(made, "install", slots, noise=noise)[-1::-SPARSE]):
            found.add(request, result)
        caught += found.bricked + found.lost
    assert caught > 0, f"{slots} is taken for safe"
