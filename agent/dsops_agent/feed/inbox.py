"""The files of a watched folder and what was done with each: a state that survives a kill at any moment.

A file's state is where it is, and every step is one rename, or one file written whole:

    PATH/x                    new
    PATH/.work/x              claimed: it is asked about
    PATH/.work/x + answers    answered: the answers are safe, in the state folder
    PATH/done/x + answers     moved (or deleted): the answers wait for the sinks
    PATH/done/x               settled: every sink took them, or dropped them
    PATH/failed/x + reason    it cannot be asked about

After a restart, what was claimed is asked about, what was answered is moved and its answers are given again, with the
ids that they had. A claimed file that the process began to decode ``MOST_TRIES`` times without coming to an end is
hostile, and fails.
"""

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dsops.files import fsync_folder, write_atomically
from dsops_agent.feed.ports import Answer

logger = logging.getLogger(__name__)

MOST_TRIES = 3
WORK, DONE, FAILED = ".work", "done", "failed"


@dataclass(frozen=True)
class Claimed:
    """A file that is ours.

    Attributes:
        path: Where it is.
        key: Names it for good: its name, its time of change and its number in the file system.
        time: When it was last changed.
        size: Its length, bytes.
    """

    path: Path
    key: str
    time: datetime
    size: int


class Inbox:
    """A watched folder.

    Args:
        folder: The folder.
        state: Folder for answers that wait for sinks, and for tries; this source's alone.
        keep: Whether files that were answered are kept.
    """

    def __init__(self, folder: Path, state: Path, *, keep: bool) -> None:
        self._folder = folder
        self._state = state
        self._keep = keep
        self._held: dict[str, int] = {}

    def prepare(self) -> None:
        """Make the folders that are missing, and hold them.

        Raises:
            OSError: They cannot be made, or one is not ours.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._state.mkdir(parents=True, exist_ok=True)
        for name in (WORK, FAILED, *((DONE,) if self._keep else ())):
            self._hold(name)

    def _hold(self, name: str) -> None:
        """Open a folder that nobody else may have made: who fills the inbox must not choose where files are moved."""
        path = self._folder / name
        with suppress(FileExistsError):
            path.mkdir(mode=0o755)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if os.fstat(handle).st_uid != os.geteuid():
            os.close(handle)
            raise PermissionError(f"{path} was not made by the agent; remove it")
        before = self._held.pop(name, -1)
        self._held[name] = handle
        if before >= 0:
            os.close(before)

    def _place(self, name: str) -> Path:
        """Return a folder as it is held, whatever its name has become."""
        return Path(f"/proc/self/fd/{self._held[name]}")

    def new(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Return the files that are not ours yet, oldest first: name, and what changes while they are written.

        Names with a dot in front are left alone: whoever writes under one renames it at the end.

        Raises:
            OSError: The folder cannot be read.
        """
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode) and not entry.name.startswith("."):
                        found.append((entry.name, (info.st_mtime_ns, info.st_size, info.st_ino)))
        return sorted(found, key=lambda one: (one[1][0], one[0]))

    def claim(self, name: str) -> Claimed | None:
        """Make a new file ours; None when somebody else took it away.

        Raises:
            OSError: It cannot be moved.
        """
        try:
            (self._folder / name).rename(self._place(WORK) / name)
        except FileNotFoundError:
            return None
        return self._claimed(self._place(WORK) / name)

    def claimed(self) -> Iterator[Claimed]:
        """Return the files that are ours since before."""
        for path in sorted(self._place(WORK).iterdir()):
            if path.is_file() and not path.is_symlink():
                yield self._claimed(path)

    def _claimed(self, path: Path) -> Claimed:
        info = path.stat(follow_symlinks=False)
        key = f"{path.name}.{info.st_mtime_ns:x}-{info.st_ino:x}"
        return Claimed(path, key, datetime.fromtimestamp(info.st_mtime_ns / 1e9, UTC), info.st_size)

    # Tries.

    def try_again(self, claimed: Claimed) -> bool:
        """Note that decoding begins; False when it began too often without an end."""
        path = self._tries(claimed)
        tries = len(path.read_bytes()) if path.exists() else 0
        if tries >= MOST_TRIES:
            return False
        write_atomically(path, b"t" * (tries + 1))
        return True

    def decoded(self, claimed: Claimed) -> None:
        """Note that decoding came to an end."""
        self._tries(claimed).unlink(missing_ok=True)

    def _tries(self, claimed: Claimed) -> Path:
        return self._state / _short(claimed.key, ".tries")

    # Ends.

    def answered(self, claimed: Claimed, answers: list[Answer]) -> None:
        """Make the answers safe; the file is not asked about again.

        Raises:
            NoSpace: The disk is full.
        """
        kept = {
            "key": claimed.key,
            "answers": [[answer.id, answer.source, answer.model, answer.record.decode()] for answer in answers],
        }
        write_atomically(self._answers(claimed.key), json.dumps(kept).encode(), mode=0o600)

    def is_answered(self, claimed: Claimed) -> bool:
        """Return whether there are answers."""
        return self._answers(claimed.key).exists()

    def move(self, claimed: Claimed) -> None:
        """Put a file that was answered where such files go.

        Raises:
            OSError: It cannot be moved.
        """
        if self._keep:
            claimed.path.rename(self._free(DONE, claimed))
            fsync_folder(self._place(DONE))
        else:
            claimed.path.unlink(missing_ok=True)
        fsync_folder(self._place(WORK))

    def settle(self, key: str) -> None:
        """Forget answers: every sink took them or dropped them."""
        with suppress(OSError):  # then they are given again after a restart, with their ids
            self._answers(key).unlink(missing_ok=True)

    def unsettled(self) -> Iterator[tuple[str, list[Answer]]]:
        """Return the answers that wait since before, with the key of their file; damaged ones are set aside."""
        for path in sorted(self._state.glob("*.answers")):
            try:
                kept = json.loads(path.read_bytes())
                found = [
                    Answer(name, source, model, record.encode(), is_again=True)
                    for name, source, model, record in kept["answers"]
                ]
                yield str(kept["key"]), found
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                logger.warning("%s is damaged and is set aside: %s", path, error)
                path.rename(path.with_suffix(".damaged"))

    def fail(self, claimed: Claimed, why: str) -> None:
        """Put a file where those go that cannot be asked about, the reason beside it.

        Raises:
            OSError: It cannot be moved.
        """
        target = self._free(FAILED, claimed)
        reason = target.with_name(f"{_cut(target.name)}.reason")
        write_atomically(reason, f"{why}\n".encode(errors="backslashreplace"))
        claimed.path.rename(target)
        fsync_folder(target.parent)
        self.decoded(claimed)

    def _answers(self, key: str) -> Path:
        return self._state / _short(key, ".answers")

    def _free(self, folder: str, claimed: Claimed) -> Path:
        """Return a place in a folder where nothing is: a file of the same name may have come before."""
        wanted = self._place(folder) / claimed.path.name
        number = 0
        path = wanted
        while path.exists():
            number += 1
            path = wanted.with_name(f"{_cut(wanted.stem)}.{number}{_cut(wanted.suffix, 20)}")
        return path


def _cut(name: str, most_bytes: int = 200) -> str:
    """Return the beginning of a name that leaves room for more in a file's name, which has 255 bytes at most."""
    return os.fsdecode(os.fsencode(name)[:most_bytes])


def _short(key: str, end: str) -> str:
    """Return a file name for a key, which is longer than the file's own name and may be too long for one."""
    return hashlib.sha256(os.fsencode(key)).hexdigest()[:32] + end
