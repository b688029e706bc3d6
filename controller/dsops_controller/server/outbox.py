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
    """Publish a bundle's chunks."""

    sha256: str


@dataclass(frozen=True)
class Retire:
    """Take a bundle's chunks from the broker."""

    sha256: str


@dataclass(frozen=True)
class Resync:
    """Note everything that is retained: the broker may have lost it."""


Work = Trust | Desired | Answer | Seed | Retire | Resync


class Outbox:
    """Collects notes from any thread; one publisher takes them, small and urgent ones first.

    This is the :class:`~dsops_controller.rollout.driver.Publisher` of the rollout driver. No call blocks.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._notes: dict[Work, None] = {}
        self._answers = Answers(clock or SystemClock())
        self._bulk: dict[Work, None] = {}
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

    def seed(self, bundle_sha256: str, model: str) -> None:
        """Offer a bundle's chunks, retained, after the trust metadata that speaks of ``model`` among others."""
        self.trust()
        self.chunks(bundle_sha256)

    def chunks(self, sha256: str) -> None:
        """Offer a bundle's chunks, retained."""
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
        """Take a bundle that nobody wants any more from the broker."""
        self._put(self._bulk, Retire(sha256))

    def resync(self) -> None:
        """Say everything again."""
        self._put(self._bulk, Resync())

    def take(self, timeout_s: float) -> Work | None:
        """Return the next note and forget it; None when there is none for ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._notes or self._answers or self._bulk, timeout_s)
            if self._notes:
                return _first(self._notes)
            if answer := self._answers.take():
                return answer
            if self._bulk:
                return _first(self._bulk)
            if self._answers:
                self._changed.wait(min(REST_S, timeout_s))
            return None

    def _put(self, notes: dict[Work, None], work: Work) -> None:
        with self._changed:
            notes[work] = None
            self._changed.notify_all()


def _first(notes: dict[Work, None]) -> Work:
    work = next(iter(notes))
    del notes[work]
    return work
