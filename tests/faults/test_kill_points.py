"""The device is killed, and the disk fails, at every system call that changes its state folder, and at reads of it."""

import os
from pathlib import Path
from typing import Any

import pytest
from fault_crew import Crew
from fault_device import Kit

pytestmark = pytest.mark.faults

STORIES = [
    *("create", "start", "first", "install", "sealed", "delta", "commit", "rollback", "collect", "recover"),
    *("cancel", "pardon", "scrub"),
]
READ = ["start", "install", "sealed", "delta", "rollback", "scrub", "recover"]
"""Stories of which reads fail; the others read likewise."""
OTHERS = ["trust_first", "trust_update", "spool"]
ALL = os.environ.get("FAULTS") == "all"
EVERY = 1 if ALL else 16
"""Making a journal or a spool writes hundreds of pages of zeros; of these, faults strike at every 16th only."""
ERRORS = ("ENOSPC", "EIO")
BOTH = ("install", "commit", "rollback", "collect")
"""Each call of these fails with both errors, each call of the others with one of them in turn."""
EVERY_READ = 1 if ALL else 2


def chosen(points: list[list[Any]], story: str, fault: str) -> list[list[Any]]:
    """Return the points where a fault strikes: kills at all, but for the like ones (see ``EVERY``); errors in turns."""
    is_sparse = story in ("create", "spool") or (story == "start" and fault != "SIGKILL")
    every = EVERY if is_sparse else 1
    found = [point for point in points if point[0] != "pwrite64" or point[1] % every == 0]
    is_whole = ALL or story in BOTH or fault not in ERRORS
    return found if is_whole else found[ERRORS.index(fault) :: len(ERRORS)]


@pytest.mark.parametrize("fault", ["SIGKILL", *ERRORS])
@pytest.mark.parametrize("story", STORIES + OTHERS)
def test_a_fault_at_every_call(strikers: Crew, tally: Any, story: str, fault: str) -> None:
    points = strikers.ask("points", story=story)
    assert len(points) > 20
    requests = [
        {"story": story, "fault": fault, "call": call, "number": number}
        for call, number, _ in chosen(points, story, fault)
    ]
    found = tally(f"{fault} during {story}")
    for request, result in strikers.strike(requests):
        found.add(request, result)
    assert found.examples == []
    assert found.missed == 0
    assert found.points == len(requests)


@pytest.mark.parametrize("story", READ)
def test_an_error_at_every_read(strikers: Crew, tally: Any, story: str) -> None:
    """A card that fails to read once: nothing that is whole is given up, and no bundle is blamed."""
    points = strikers.ask("points", story=story, reads=True)[::EVERY_READ]
    requests = [{"story": story, "fault": "EIO", "call": call, "number": number} for call, number, _ in points]
    # A start looks the whole journal over; from then on SQLite has its pages in memory.
    expected = {"read", "pread64"} if story == "start" else {"read"}
    assert expected <= {request["call"] for request in requests}
    found = tally(f"EIO at reads during {story}")
    for request, result in strikers.strike(requests):
        if result["hit"]:  # not another read of that number: the interpreter reads files, too
            found.add(request, result)
    assert found.examples == []
    assert found.points > len(requests) / 2


@pytest.mark.parametrize(
    ("story", "call", "place"),
    [
        ("delta", "rename", "/staging/{delta}.made"),
        ("collect", "unlink", "/staging/{9}.part"),
        ("cancel", "unlink", "/staging/{9}.part"),
        ("scrub", "rename", "/slots/digits/.active.new"),
        ("rollback", "rename", "/slots/digits/.active.new"),
    ],
)
def test_a_story_comes_to_what_it_is_for(strikers: Crew, kit: Path, story: str, call: str, place: str) -> None:
    """Else every fault would strike before, and nothing would be proved."""
    named = place
    for name, made in Kit.load(kit).bundles.items():
        named = named.replace(f"{{{name}}}", made.sha256)
    points = strikers.ask("points", story=story)
    assert [text for name, _, text in points if name == call and text.startswith(f'"{named}"')] != []
