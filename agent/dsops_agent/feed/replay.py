"""A source that is a file of frames, at a rate: for trials."""

import threading
import time
from datetime import UTC, datetime

from dsops.errors import DsopsError, InvalidConfig, InvalidInput
from dsops_agent.feed.decode import MAX_BYTES, from_npy, from_npz
from dsops_agent.feed.fit import Form, Frames
from dsops_agent.feed.frames import frames_of, new_windows
from dsops_agent.feed.pace import Pace
from dsops_agent.feed.ports import Line
from dsops_agent.feed.settings import Replay, Source
from dsops_agent.runtime.litert import Array


class ReplaySource:
    """Hands the frames of a file over, in order, none left out, and none before its time.

    Args:
        source: The source's settings.
        settings: Which file.
    """

    def __init__(self, source: Source, settings: Replay) -> None:
        self._source = source
        self._settings = settings
        self._pace = Pace(source.rate_hz)

    def run(self, line: Line, stop: threading.Event) -> None:
        """Hand frames over until ``stop`` is set, or the end of a file that is not repeated.

        Raises:
            InvalidConfig: The file cannot be read.
        """
        values = self._read()
        turn = 0
        while (turn == 0 or self._settings.repeat) and (form := line.form(stop)) is not None:
            self._once(values, form, turn, line, stop)
            turn += 1

    def _once(self, values: Array, form: Form, turn: int, line: Line, stop: threading.Event) -> None:
        frames = self._fitted(values, form, line, stop)
        number = 0
        while frames is not None and number < len(frames):
            if stop.wait(self._pace.wait_s(time.monotonic())):
                return
            self._pace.passed(time.monotonic())
            if self._ask(f"{turn}-{number}", frames[number : number + 1], form, line, stop):
                line.came()
                number += 1
            elif (newest := line.form(stop)) is not None:
                form, frames = newest, self._fitted(values, newest, line, stop)

    def _fitted(self, values: Array, form: Form, line: Line, stop: threading.Event) -> Frames | None:
        try:
            return frames_of(values, form, self._source, new_windows(self._source))
        except InvalidInput as error:
            line.failed(f"{self._settings.path.name}: {error}")
            stop.wait(1.0)  # a repetition, or another release, may fare better
            return None

    def _ask(self, name: str, frames: Frames, form: Form, line: Line, stop: threading.Event) -> bool:
        """Return whether that is done; it is not when by now another release is active that takes other frames."""
        try:
            line.give(line.patient_answers(name, datetime.now(UTC), frames, stop))
        except InvalidInput as error:
            if line.form(stop) != form:
                return False
            line.failed(str(error))
        except DsopsError as error:
            line.failed(str(error))
        return True

    def _read(self) -> Array:
        path = self._settings.path
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES)  # what is longer is cut short, and refused as such
            return (from_npz if path.suffix == ".npz" else from_npy)(data)
        except (OSError, InvalidInput) as error:
            raise InvalidConfig(f"cannot replay {path}", why=str(error), key="source.replay.path") from error
