"""What is to be published, as notes and not as bytes: the newest truth is read when its turn comes."""

import threading
from dataclasses import dataclass

from dsops.clock import Clock, SystemClock
from dsops.messages import Need
from dsops_controller.server.answers import Answer, Answers

REST_S = 0.01
"""How long the publisher waits when every device that asks for chunks had its share."""


@dataclass(frozen=True)
class Trust:
    """Publish the trust metadata; what the broker must hold already is said again when ``everything`` is."""

    everything: bool = False


@dataclass(frozen=True)
class Desired:
    """Publish a device's directive."""

    device: str


@dataclass(frozen=True)
class Seed:
    """Publish the chunks of a file: a bundle, or a delta."""

    sha256: str


@dataclass(frozen=True)
class Retire:
    """Take a file's chunks from the broker."""

    sha256: str


@dataclass(frozen=True)
class Resync:
    """Note everything that is retained: the broker may have lost it."""


Work = Trust | Desired | Answer | Seed | Retire | Resync


class Outbox:
    """Collects notes from any thread; one publisher takes them, news first.

    Behind the news three lanes take turns, so that none starves: directives that are only said again, answers, and
    bulk. This is the :class:`~dsops_controller.rollout.driver.Publisher` of the rollout driver. No call blocks.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._notes: dict[Work, None] = {}
        self._answers = Answers(clock or SystemClock())
        self._again: dict[Work, None] = {}
        self._bulk: dict[Work, None] = {}
        self._turn = 0
        self._changed = threading.Condition()

    def publish_desired(self, device: str, envelope: bytes) -> None:
        """Offer a device its directive, retained.

        Of ``envelope`` only the fact counts that the database holds it or a newer one: the newest is sent, so two
        callers cannot overtake each other.
        """
        assert envelope, "a directive is never empty: an empty retained message would delete it"
        self.desired(device)

    def desired(self, device: str) -> None:
        """Offer a device its newest directive, retained."""
        self._put(self._notes, Desired(device))

    def desired_again(self, device: str) -> None:
        """Offer a device its directive, which the broker should hold already; not before what is news."""
        self._put(self._again, Desired(device))

    def seed(self, bundle_sha256: str, model: str) -> None:
        """Offer a bundle's chunks, retained, after the trust metadata that speaks of ``model`` among others."""
        self.trust()
        self.chunks(bundle_sha256)

    def chunks(self, sha256: str) -> None:
        """Offer the chunks of a bundle or a delta, retained."""
        self._put(self._bulk, Seed(sha256))

    def trust(self, *, everything: bool = False) -> None:
        """Offer the trust metadata; ``everything`` says also what the broker should hold already."""
        self._put(self._notes, Trust(everything))

    def answer(self, device: str, need: Need) -> None:
        """Send a device chunks that it asked for, when its turn comes."""
        with self._changed:
            self._answers.ask(device, need)
            self._changed.notify_all()

    def retire(self, sha256: str) -> None:
        """Take a file that nobody wants any more from the broker."""
        self._put(self._bulk, Retire(sha256))

    def resync(self) -> None:
        """Say everything again."""
        self._put(self._bulk, Resync())

    def take(self, timeout_s: float) -> Work | None:
        """Return the next note and forget it; None when there is none for ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._notes or self._again or self._answers or self._bulk, timeout_s)
            if self._notes:
                return _first(self._notes)
            for _ in range(3):
                self._turn = (self._turn + 1) % 3
                if work := self._of_lane(self._turn):
                    return work
            if self._answers:  # every device that asks had its share
                self._changed.wait(min(REST_S, timeout_s))
            return None

    def _of_lane(self, lane: int) -> Work | None:
        if lane == 1:
            return self._answers.take()
        notes = self._bulk if lane == 0 else self._again
        return _first(notes) if notes else None

    def _put(self, notes: dict[Work, None], work: Work) -> None:
        with self._changed:
            notes[work] = None
            self._changed.notify_all()


def _first(notes: dict[Work, None]) -> Work:
    work = next(iter(notes))
    del notes[work]
    return work
