"""Reads every stored bundle again now and then, its files too: a disk that forgets is noticed before they are needed.

It goes on in slices between other work, at a small rate, and past the page cache, which would hide what the disk holds.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from dsops.bundle import Bundle
from dsops.clock import Clock, utc_text
from dsops.errors import DsopsError
from dsops_agent.install import attachments
from dsops_agent.install.journal import Journal
from dsops_agent.install.slots import SlotFile, Slots, damage

SLICE_BYTES = 1 << 20
REST_S = 0.25
"""Pause after a slice: 4 MiB a second at most."""
_LOOK_S = 60.0
_SCRUBBED = "scrubbed"


@dataclass(frozen=True)
class Damage:
    """A stored bundle that is not what was signed any more."""

    model: str
    file: SlotFile
    why: str


@dataclass(kw_only=True)
class Scrub:
    """Rounds over all slots. One thread.

    Attributes:
        slots: The bundles on disk.
        journal: Keeps when the last round ended, across restarts.
        clock: Time.
        period: Time between two rounds; zero makes none.
        is_changing: Tells whether a model's slots change at this moment; they are passed over then.
        next_s: When :meth:`turn` has something to do; None for never.
    """

    slots: Slots
    journal: Journal
    clock: Clock
    period: timedelta
    is_changing: Callable[[str], bool]
    next_s: float | None = field(init=False)
    _round: Iterator[Damage | None] | None = field(init=False, default=None)
    _is_whole: bool = field(init=False, default=True)
    _found: Damage | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Look once the start is over, which has other work to do."""
        self._rest(self.clock.monotonic_s())

    def last(self) -> datetime | None:
        """Return when the last round ended."""
        text = self.journal.get(_SCRUBBED)
        return datetime.fromisoformat(text) if text else None

    def suspect(self, model: str, file: SlotFile) -> None:
        """Read one bundle again now, also where no rounds are made, for somebody could not read it.

        While a round goes on it is passed over: who still cannot read it asks again.
        """
        if self._round is None:
            self._round, self._is_whole = self._check(model, file), False
            self.next_s = self.clock.monotonic_s()

    def turn(self) -> Damage | None:
        """Read one slice when it is time; return what turned out to be damaged, again and again until :meth:`done`.

        Raises:
            StateDamaged: The host cannot read files at the moment, or the journal fails.
        """
        now_s = self.clock.monotonic_s()
        if self.next_s is None or now_s < self.next_s:
            return None
        if self._round is None and self._is_due():
            self._round, self._is_whole = self._slices(), True
        if self._round is None:
            self._rest(now_s)
            return None
        if self._found and self._stands(self._found):
            self.next_s = now_s + _LOOK_S
            return self._found
        self.next_s = now_s + REST_S
        try:
            self._found = next(self._round)
        except StopIteration:
            self._found = self._round = None
            self._rest(now_s)  # a disk that does not take the date is not read without a pause
            if self._is_whole:
                self.journal.set(_SCRUBBED, utc_text(self.clock.now()))
        except DsopsError:
            self._round = None  # the round begins again
            self._rest(now_s)
            raise
        return self._found

    def done(self) -> None:
        """Take note that what was found is dealt with."""
        self._found = None

    def _rest(self, now_s: float) -> None:
        self.next_s = now_s + _LOOK_S if self.period else None

    def _is_due(self) -> bool:
        """Return whether a round is due; one that seems to lie ahead was timed by a clock that was wrong."""
        if not self.period:
            return False
        last = self.last()
        return last is None or not timedelta() <= self.clock.now() - last < self.period

    def _slices(self) -> Iterator[Damage | None]:
        for model in self.slots.models():
            for file in self.slots.stored(model):
                if not self.is_changing(model):
                    yield from self._check(model, file)

    def _check(self, model: str, file: SlotFile) -> Iterator[Damage | None]:
        """Yield None after each slice, then the damage if there is any and the slot still holds that bundle."""
        try:
            found = yield from _read_again(file.path)
            why = "" if found == (file.digest, file.length_bytes) else "its bytes have changed"
        except OSError:
            why = damage(file, model)
        why = why or (yield from self._check_files(model, file))
        wrong = Damage(model, file, why)
        if why and self._stands(wrong):
            yield wrong

    def _check_files(self, model: str, file: SlotFile) -> Generator[None, None, str]:
        """Read the files beside a whole bundle, too; return what is wrong with them if it is active.

        What is active is looked at as after a start, which writes them again and tells of it. Others are mended here.
        """
        manifest, folder = Bundle.open(file.path).manifest, file.path.parent / attachments.FOLDER
        for blob in [manifest.blob(one.blob) for one in manifest.files]:
            try:
                found = yield from _read_again(folder / blob.name)
                why = "" if found == (blob.sha256, blob.size_bytes) else "its bytes have changed"
            except OSError as error:
                why = error.strerror or str(error)
            wrong = Damage(model, file, f"file {blob.name!r}: {why}")
            if why and self._stands(wrong):
                if self.slots.active_name(model) == file.name:
                    return wrong.why
                self.slots.mend(file)
                return ""
        return ""

    def _stands(self, found: Damage) -> bool:
        """Return whether the slot still holds what was found damaged."""
        return found.file in self.slots.stored(found.model) and not self.is_changing(found.model)


def _read_again(path: Path) -> Generator[None, None, tuple[str, int]]:
    """Yield after each slice of a file; return its digest and length. Raises OSError."""
    state, length = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as stored:
        _forget_cache(stored.fileno())
        while piece := stored.read(SLICE_BYTES):
            state.update(piece)
            length += len(piece)
            yield None
        _forget_cache(stored.fileno())
    return state.hexdigest(), length


def _forget_cache(handle: int) -> None:
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
