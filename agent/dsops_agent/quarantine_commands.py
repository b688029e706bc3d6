"""What ``dsops-agent quarantine`` shows and clears; the agent may run meanwhile, or not."""

import time
from collections.abc import Sequence
from pathlib import Path

from dsops.errors import AlreadyRunning, InvalidInput, NotFound, TimedOut
from dsops_agent.install.journal import Journal
from dsops_agent.install.pardons import PardonBox
from dsops_agent.status import Quarantined, StateLock, read_status

_LOOK_S = 0.1
_PATIENCE_S = 20.0


def listed(state: Path) -> Sequence[Quarantined]:
    """Return the bundles that are never tried again, newest first.

    Raises:
        StateDamaged: The state folder cannot be read.
        NotFound: The agent has only begun to run, and said nothing yet.
    """
    lock = StateLock(state)
    try:
        lock.take()
    except AlreadyRunning:
        return read_status(state / "status.json").quarantine
    try:
        return _stored(state)
    finally:
        lock.release()


def clear(state: Path, digest: str) -> str:
    """Take a bundle out of quarantine; return its whole digest.

    Args:
        state: The state folder.
        digest: Its SHA-256, or enough of the beginning to tell it from the others.

    Raises:
        NotFound: It is not in quarantine.
        InvalidInput: Several begin like this.
        TimedOut: The agent runs, and did not take the request up; it will.
        StateDamaged: The state folder cannot be used.
    """
    lock = StateLock(state)
    try:
        lock.take()
    except AlreadyRunning:
        found = _one(read_status(state / "status.json").quarantine, digest)
        _ask(PardonBox(state / "pardons"), found)
        return found
    try:
        found = _one(_stored(state), digest)
        journal = Journal(state / "journal.db")
        try:
            journal.pardon((found,), "at the device")
        finally:
            journal.close()
        return found
    finally:
        lock.release()


def _stored(state: Path) -> Sequence[Quarantined]:
    path = state / "journal.db"
    if not path.exists():
        return ()
    journal = Journal(path)
    try:
        return [Quarantined(model=q.model, digest=q.digest, problem=q.problem) for q in journal.quarantine_list()]
    finally:
        journal.close()


def _one(listing: Sequence[Quarantined], digest: str) -> str:
    found = [one.digest for one in listing if one.digest.startswith(digest.lower())]
    if not found or len(digest) < 4:
        raise NotFound(f"no bundle {digest} is in quarantine", hint="see: dsops-agent quarantine list")
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} bundles in quarantine begin with {digest}", hint="give more of the digest")
    return found[0]


def _ask(box: PardonBox, digest: str) -> None:
    box.ask(digest)
    ends_s = time.monotonic() + _PATIENCE_S
    while digest in box.asked():
        if time.monotonic() > ends_s:
            why = "the agent runs, but did not take the request up yet"
            raise TimedOut(f"bundle {digest[:12]} is still in quarantine", why=why, hint="it will; see the agent's log")
        time.sleep(_LOOK_S)
