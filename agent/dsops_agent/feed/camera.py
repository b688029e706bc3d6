"""A source that is a camera, through OpenCV, or a video file. The newest frame wins."""

import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Protocol

from dsops.errors import DeviceError, DsopsError
from dsops_agent.feed.decode import opencv
from dsops_agent.feed.frames import frame_of_picture
from dsops_agent.feed.pace import Pace
from dsops_agent.feed.ports import Line
from dsops_agent.feed.settings import Camera, Source
from dsops_agent.runtime.litert import Array


class Capture(Protocol):
    """What is used of OpenCV's VideoCapture."""

    def grab(self) -> bool:
        """Take the next picture."""
        ...

    def retrieve(self) -> tuple[bool, Array]:
        """Decode it."""
        ...

    def get(self, what: int) -> float:
        """Return a property."""
        ...

    def set(self, what: int, value: float) -> bool:
        """Set a property."""
        ...

    def release(self) -> None:
        """Close it."""
        ...


class CameraSource:
    """Takes pictures on one thread and asks about the newest on another.

    Args:
        source: The source's settings.
        settings: Which camera.
    """

    def __init__(self, source: Source, settings: Camera) -> None:
        self._source = source
        self._settings = settings
        self._pace = Pace(source.rate_hz)
        self._changed = threading.Condition()
        self._newest: tuple[datetime, Array] | None = None
        self._alive_s = time.monotonic()
        self._number = 0

    def run(self, line: Line, stop: threading.Event) -> None:
        """Hand pictures over until ``stop`` is set.

        Raises:
            MissingExtra: OpenCV is not installed.
            DeviceError: The driver hangs; only the end of the process frees what it holds.
        """
        cv2 = opencv()
        reader = threading.Thread(target=self._read, args=(cv2, line, stop), daemon=True, name="camera")
        reader.start()
        while not stop.is_set():
            if not reader.is_alive() and not stop.is_set():
                raise DeviceError(f"reading camera {self._settings.device} ended")
            if time.monotonic() - self._alive_s > self._settings.silent_s:
                raise DeviceError(f"camera {self._settings.device} says nothing for {self._settings.silent_s:g} s")
            taken = self._take()
            if taken is not None:
                self._ask(line, *taken, stop)
        reader.join(1.0)

    # The thread that reads.

    def _read(self, cv2: ModuleType, line: Line, stop: threading.Event) -> None:
        while not stop.is_set():
            capture = self._open(cv2)
            try:
                self._follow(capture, cv2, line, stop)
            finally:
                capture.release()
            if not stop.is_set():
                line.trouble(f"camera {self._settings.device} is not there, or has ended; it is tried again")
            self._rest(stop)

    def _open(self, cv2: ModuleType) -> Capture:
        device = self._settings.device
        capture: Capture = cv2.VideoCapture(int(device) if device.isdecimal() else device)
        wanted = {cv2.CAP_PROP_FRAME_WIDTH: self._settings.width, cv2.CAP_PROP_FRAME_HEIGHT: self._settings.height}
        for what, length in wanted.items():
            if length:
                capture.set(what, length)
        return capture

    def _follow(self, capture: Capture, cv2: ModuleType, line: Line, stop: threading.Event) -> None:
        own_pace = Pace(self._file_rate(capture, cv2))
        while not stop.is_set() and capture.grab():
            self._alive_s = time.monotonic()
            stop.wait(own_pace.wait_s(self._alive_s))
            own_pace.passed(time.monotonic())
            if not self._pace.passes(time.monotonic()):
                continue
            is_there, pixels = capture.retrieve()
            if not is_there:
                return
            line.in_order()
            line.came()
            self._put(pixels, line)

    def _file_rate(self, capture: Capture, cv2: ModuleType) -> float:
        """Return how fast a file is to be played; 0 for a camera, which has a pace of its own."""
        if not Path(self._settings.device).is_file():
            return 0.0
        rate_hz = float(capture.get(cv2.CAP_PROP_FPS))
        return rate_hz if 0 < rate_hz < 1000 else 25.0

    def _put(self, pixels: Array, line: Line) -> None:
        with self._changed:
            is_late = self._newest is not None
            self._newest = (datetime.now(UTC), pixels)
            self._changed.notify()
        if is_late:
            line.dropped()

    def _rest(self, stop: threading.Event) -> None:
        ends_s = time.monotonic() + self._settings.retry_s
        while not stop.is_set() and (left_s := ends_s - time.monotonic()) > 0:
            self._alive_s = time.monotonic()
            stop.wait(min(left_s, 0.5))
        self._alive_s = time.monotonic()

    # The thread that asks.

    def _take(self) -> tuple[datetime, Array] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None, 0.2)
            taken, self._newest = self._newest, None
            return taken

    def _ask(self, line: Line, time_taken: datetime, pixels: Array, stop: threading.Event) -> None:
        form = line.form(stop)
        if form is None:
            return
        self._number += 1
        try:
            frames = frame_of_picture(pixels, form, self._source)
            line.give(line.answers(f"{time_taken:%Y%m%dT%H%M%S.%f}-{self._number}", time_taken, frames))
        except DsopsError as error:
            line.failed(f"{error}: {error.why}" if error.why else str(error))
        else:
            line.in_order()
