"""Programs on the devices: each looks through its camera and asks its agent, over the Unix socket, what it sees."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dsops.client import Inference
from dsops.errors import DsopsError, RuntimeCrashed
from dsops_controller.demo.digits import Images, Labelled

Camera = Callable[[Images], Images]
CALL_S = 5.0


@dataclass
class Tally:
    """What one program saw. ``releases`` counts answers by the release that gave them."""

    answered: int = 0
    correct: int = 0
    failed: int = 0
    first_failure: str = ""
    releases: Counter[str] = field(default_factory=Counter)

    @property
    def accuracy(self) -> float:
        """Share of answers that were right."""
        return self.correct / self.answered if self.answered else 0.0


@dataclass(frozen=True)
class Answer:
    """What the device said of one frame."""

    label: str
    release: str


class Classifier:
    """A model of one device that names what it sees."""

    def __init__(self, socket: Path, model: str) -> None:
        self._inference = Inference(socket, model, timeout_s=CALL_S)

    def classify(self, frame: Images, request_id: str) -> Answer:
        """Classify one frame float32 [8, 8, 1].

        Raises:
            RuntimeCrashed: The device did not answer.
        """
        try:
            answer = self._inference.infer(image=frame[None], request_id=request_id)
        except DsopsError as error:
            raise RuntimeCrashed("a device did not answer", why=str(error)) from error
        return Answer(str(answer["label"][0]), str(answer.release))

    def accuracy(self, data: Labelled) -> float:
        """Return the share of frames whose label the device names right."""
        answers = [self.classify(x, "evaluation").label for x in data.x]
        return sum(a == str(y) for a, y in zip(answers, data.y, strict=True)) / len(data)

    def close(self) -> None:
        """Close the connection."""
        self._inference.close()


class Program(threading.Thread):
    """Sends one frame after another, in a random order, until it is stopped; never gives up on a failure."""

    def __init__(self, device: str, inference: Classifier, frames: Labelled, *, rate_hz: float, seed: int) -> None:
        super().__init__(name=f"program-{device}", daemon=True)
        self.device = device
        self.tally = Tally()
        self.total = Tally()
        self._inference = inference
        self._frames = frames
        self._pause_s = 1.0 / rate_hz
        self._rng = np.random.default_rng(seed)
        self._camera: Camera = _as_it_is
        self._name = "clean"
        self._lock = threading.Lock()
        self._halt = threading.Event()

    def look_through(self, name: str, frames: Labelled, camera: Camera) -> int:
        """Change what is seen and through what, and begin a new tally; return the number of frames sent before."""
        with self._lock:
            self._name, self._frames, self._camera = name, frames, camera
            self.tally = Tally()
            return self.total.answered + self.total.failed

    def begin_tally(self) -> None:
        """Begin a new tally."""
        with self._lock:
            self.tally = Tally()

    def run(self) -> None:
        """Send frames until :meth:`stop`."""
        while not self._halt.wait(self._pause_s):
            with self._lock:
                self._send(int(self._rng.integers(len(self._frames))))

    def stop(self) -> None:
        """Stop and wait for the last answer."""
        self._halt.set()
        self.join()
        self._inference.close()

    def _send(self, row: int) -> None:
        frame = self._camera(self._frames.x[row : row + 1])[0]
        try:
            answer = self._inference.classify(frame, f"{self._name}-{row}")
        except RuntimeCrashed as error:
            for tally in (self.tally, self.total):
                tally.failed += 1
                tally.first_failure = tally.first_failure or error.why
            return
        for tally in (self.tally, self.total):
            tally.answered += 1
            tally.correct += answer.label == str(self._frames.y[row])
            tally.releases[answer.release] += 1


def _as_it_is(frames: Images) -> Images:
    return frames
