"""The tail of a local Delta log after a crash: what was synced, and undoing what was not.

The Delta writer does not sync, so a power cut may keep a commit or a checkpoint and lose what it names. A note beside
the tables says which version and which checkpoints of each were synced. Commits above it that are our own are taken
back at the start. That loses nothing: the records of a flush are still in the inbox, whose rows are deleted only after
the note, and the files that a compaction replaced are kept for a day.
"""

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from dsops import strictjson
from dsops.errors import StateDamaged
from dsops.files import write_atomically

NOTE = "synced.json"
MARK = "dsops"
"""The key in ``commitInfo`` of our own commits."""
_CHECKPOINTS = "*.checkpoint*.parquet"
_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Tail:
    """The newest version of a table, and the versions that have a checkpoint, in order."""

    version: int
    checkpoints: tuple[int, ...] = ()


def load_synced(folder: Path) -> dict[str, Tail]:
    """Return the synced tail of each table; empty before the first sync.

    Raises:
        StateDamaged: The note is not readable.
    """
    path = folder / NOTE
    if not path.exists():
        return {}
    try:
        note = json.loads(path.read_bytes())
        return {name: Tail(int(tail["version"]), tuple(map(int, tail["checkpoints"]))) for name, tail in note.items()}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise StateDamaged(f"{NOTE} of the lake cannot be read", why=str(error)) from error


def save_synced(folder: Path, tails: dict[str, Tail]) -> None:
    """Note the synced tails, durably.

    Raises:
        NoSpace: The disk is full.
    """
    write_atomically(folder / NOTE, strictjson.dumps({name: asdict(tail) for name, tail in tails.items()}))


def checkpoints(table: Path) -> tuple[int, ...]:
    """Return the versions of a table that have a checkpoint, in order."""
    return tuple(sorted({_version(path) for path in _log(table).glob(_CHECKPOINTS)}))


def superfluous(table: Path, needed: Collection[int], before_s: float) -> list[Path]:
    """Return the commits and checkpoints that were written before a time and that nothing is read from.

    A checkpoint from before that time is not one, so that each version since can be read, nor those of ``needed``
    versions.

    Raises:
        OSError: The log cannot be read.
    """
    named = [path for path in _log(table).iterdir() if path.name[:_DIGITS].isdecimal()]
    old = [path for path in named if path.stat().st_mtime < before_s]
    made = [_version(path) for path in old if path.match(_CHECKPOINTS)]
    kept = {path for path in old if path.match(_CHECKPOINTS) and _version(path) in needed}
    return [path for path in old if _version(path) < max(made, default=0) and path not in kept]


def undo_unsynced(table: Path, synced: Tail | None) -> list[int]:
    """Take back unsynced checkpoints, and unsynced commits that are torn or ours; return the commits' versions.

    From the newest downwards, until a whole commit of somebody else. A table that never was synced is removed when its
    only commit is torn: it has no records yet.
    """
    log = _log(table)
    commits = {_version(path): path for path in log.glob("*.json") if path.stem.isdecimal()}
    if synced is None:
        if list(commits) == [0] and _actions(commits[0]) is None:
            shutil.rmtree(table)
        return []
    _drop_checkpoints(log, synced.checkpoints)
    undone = []
    for version in sorted((v for v in commits if v > synced.version), reverse=True):
        actions = _actions(commits[version])
        if actions is not None and not _is_ours(actions):
            break
        commits[version].unlink()
        undone.append(version)
    return undone


def _drop_checkpoints(log: Path, synced: Collection[int]) -> None:
    """Remove all other checkpoints, and the hint to the newest: readers then list the log."""
    unsynced = [path for path in log.glob(_CHECKPOINTS) if _version(path) not in synced]
    if unsynced:
        (log / "_last_checkpoint").unlink(missing_ok=True)
    for path in unsynced:
        path.unlink()


def _log(table: Path) -> Path:
    return table / "_delta_log"


def _version(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _actions(path: Path) -> list[dict[str, object]] | None:
    """Return a commit's actions, or None when the file is torn."""
    try:
        actions = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except ValueError:
        return None
    return actions if actions and all(isinstance(action, dict) for action in actions) else None


def _is_ours(actions: list[dict[str, object]]) -> bool:
    infos = [action["commitInfo"] for action in actions if "commitInfo" in action]
    return any(isinstance(info, dict) and MARK in info for info in infos)
