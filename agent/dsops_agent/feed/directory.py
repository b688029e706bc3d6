"""A source that is a folder of files: each is taken once it is whole, and answered once."""

import os
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import PurePath

from dsops.errors import DsopsError, Forbidden, InvalidInput, MissingExtra
from dsops_agent.feed.after import AfterAll
from dsops_agent.feed.decode import PICTURES, READERS, from_raw, opencv
from dsops_agent.feed.fit import Form, Frames
from dsops_agent.feed.frames import frame_of_picture, frames_of, new_windows, sample_shape, sound_as_raw
from dsops_agent.feed.inbox import MOST_TRIES, Claimed, Inbox
from dsops_agent.feed.pace import Pace
from dsops_agent.feed.ports import Answer, Line
from dsops_agent.feed.settings import Directory, Source

_REST_S = 1.0


class DirectorySource:
    """Takes files, oldest first.

    Args:
        source: The source's settings.
        settings: Which folder.
        inbox: What was done with each file.
    """

    def __init__(self, source: Source, settings: Directory, inbox: Inbox) -> None:
        self._source = source
        self._settings = settings
        self._inbox = inbox
        self._pace = Pace(source.rate_hz)
        self._seen: dict[str, tuple[tuple[int, int, int], float]] = {}

    def run(self, line: Line, stop: threading.Event) -> None:
        """Take files until ``stop`` is set. What was begun before comes first."""
        is_recovered = False
        while not stop.is_set():
            try:
                self._inbox.prepare()
                if not is_recovered:
                    self.recover(line)
                    is_recovered = True
                self.look(line, stop)
            except (OSError, DsopsError) as error:
                line.trouble(f"folder {self._settings.path}: {error}")
                stop.wait(_REST_S)

    def recover(self, line: Line) -> None:
        """Move what was answered, and give the sinks again what they may not have had.

        Raises:
            OSError: A file cannot be moved.
        """
        for claimed in self._inbox.claimed():
            if self._inbox.is_answered(claimed):
                self._inbox.move(claimed)
        for key, answers in list(self._inbox.unsettled()):
            self._give(key, answers, line)

    def look(self, line: Line, stop: threading.Event) -> None:
        """Take every file that is whole, then wait a moment.

        Raises:
            OSError: The folder cannot be used.
        """
        for claimed in self._inbox.claimed():
            if stop.is_set():
                return
            self._take(claimed, line, stop)
        for name in self._readable(line):
            if stop.wait(self._pace.wait_s(time.monotonic())):
                return
            taken = self._inbox.claim(name)
            if taken is not None:
                self._take(taken, line, stop)
        stop.wait(self._settings.settle_s / 2)

    def _whole(self) -> list[str]:
        """Return the names of the files that have not changed for long enough."""
        now_s = time.monotonic()
        new = dict(self._inbox.new())
        before = self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == look else (look, now_s)
            for name, look in new.items()
        }
        return [name for name, (_, since_s) in self._seen.items() if now_s - since_s >= self._settings.settle_s]

    def _readable(self, line: Line) -> list[str]:
        """Return the names of the files that are whole; pictures wait where they are until OpenCV is installed."""
        names = self._whole()
        if any(map(_is_picture, names)):
            try:
                opencv()
            except MissingExtra as error:  # not the pictures' fault
                line.trouble(f"pictures wait: {error} ({error.hint}, and start the agent again)")
                return [name for name in names if not _is_picture(name)]
        return names

    def _take(self, claimed: Claimed, line: Line, stop: threading.Event) -> None:
        try:
            answers = self._answers(claimed, line, stop)
        except (InvalidInput, MissingExtra, Forbidden) as error:
            line.failed(f"{claimed.path.name}: {error}")
            self._inbox.fail(claimed, f"{error}: {error.why}" if error.why else str(error))
            return
        if not answers:
            return  # the process ends; the file stays claimed
        self._inbox.answered(claimed, answers)
        self._inbox.move(claimed)
        self._give(claimed.key, answers, line)

    def _answers(self, claimed: Claimed, line: Line, stop: threading.Event) -> list[Answer]:
        """Return what the model says of a file; nothing when ``stop`` was set meanwhile.

        Raises:
            InvalidInput: The file is not what the model takes, also not the release that is active by now.
            MissingExtra: It is a picture that was claimed before, and OpenCV is not installed any more.
            Forbidden: This process may not ask.
        """
        form = line.form(stop)
        while form is not None:
            frames = self._decoded(claimed, form)
            try:
                answers = line.patient_answers(claimed.key, claimed.time, frames, stop)
            except InvalidInput:
                newest = line.form(stop)
                if newest == form:
                    raise
                form = newest
            else:
                self._pace.passed(time.monotonic(), len(frames))
                line.came(len(frames))
                return answers
        return []

    def _give(self, key: str, answers: list[Answer], line: Line) -> None:
        settled = AfterAll(len(answers), partial(self._inbox.settle, key))
        line.give([replace(answer, settled=settled.one) for answer in answers])

    def _decoded(self, claimed: Claimed, form: Form) -> Frames:
        if claimed.size > self._settings.max_bytes:
            raise InvalidInput(f"it has {claimed.size} bytes, and {self._settings.max_bytes} are taken")
        if not self._inbox.try_again(claimed):
            raise InvalidInput(f"the process ended {MOST_TRIES} times while it was decoded")
        frames = self._frames(_read(claimed), PurePath(claimed.path).suffix.lower(), form)
        self._inbox.decoded(claimed)
        if not len(frames):
            raise InvalidInput("it is shorter than a window")
        return frames

    def _frames(self, data: bytes, ending: str, form: Form) -> Frames:
        if ending == ".raw":
            values = from_raw(data, self._source.dtype, sample_shape(self._source, form))
        elif ending in PICTURES:
            return frame_of_picture(READERS[ending](data), form, self._source)
        elif ending in READERS:
            values = READERS[ending](data)
            if ending == ".wav":
                values = sound_as_raw(values, form, self._source)
        else:
            raise InvalidInput(
                f"files that end in {ending or 'nothing'} are not known", why=", ".join((*READERS, ".raw"))
            )
        return frames_of(values, form, self._source, new_windows(self._source), is_typed=ending != ".json")


def _is_picture(name: str) -> bool:
    return PurePath(name).suffix.lower() in PICTURES


def _read(claimed: Claimed) -> bytes:
    try:
        handle = os.open(claimed.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            return file.read(claimed.size)
    except OSError as error:  # it alone is at fault, and must not hold the others up
        raise InvalidInput("it cannot be read", why=error.strerror or str(error)) from error
