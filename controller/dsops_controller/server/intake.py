"""What devices say over MQTT, taken as what it is: claims from outside. Nothing here raises for what a device sends."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dsops.bundle import sha256_hex
from dsops.clock import Clock
from dsops.errors import DsopsError, InvalidInput, UntrustedBundle
from dsops.messages import MAX_MESSAGE_BYTES, Connection, Need, Observed, decode
from dsops.topics import Topics
from dsops_controller.allowance import Allowance

log = logging.getLogger(__name__)

NEED_BURST = 64
NEEDS_PER_S = 32.0
RECORD_EVERY_S = 60.0


class Reports(Protocol):
    """The register of devices. It refuses, and records, what is unsigned or comes from strangers."""

    def connection(self, message: Connection) -> bool:
        """Take a birth or a death; return whether it was news."""
        ...

    def observed(self, device: str, data: bytes) -> Observed | None:
        """Take a report, signed by the device; None when it is the newest one, come again."""
        ...

    def require_accepted(self, device: str) -> None:
        """Refuse a device that does not take part."""
        ...


@dataclass(frozen=True)
class Effects:
    """What the intake causes elsewhere.

    Attributes:
        answer: Called with a device and what it asks to be sent.
        wake: Called when there is news of a device.
        record: Called with device and reason of a refusal that is to be kept.
        stranger: Called with the name of a device that was not believed.
    """

    answer: Callable[[str, Need], None]
    wake: Callable[[], None]
    record: Callable[[str, str], None]
    stranger: Callable[[str], None] = lambda _device: None


class Intake:
    """Routes messages from devices."""

    def __init__(self, topics: Topics, reports: Reports, effects: Effects, clock: Clock) -> None:
        self._topics = topics
        self._reports = reports
        self._effects = effects
        self._needs = Allowance(clock, NEED_BURST, NEEDS_PER_S)
        self._records = Allowance(clock, 1, 1 / RECORD_EVERY_S)
        self._logs = Allowance(clock, 1, 1 / RECORD_EVERY_S)
        self._last: dict[str, str] = {}
        self.counters: Counter[str] = Counter()

    def route(self, topic: str) -> tuple[str, str] | None:
        """Return device and kind of a topic that is taken, or None (counted) for any other."""
        try:
            found = self._topics.parse_up(topic)
        except InvalidInput:
            found = None
        if found is None:
            self.counters["foreign"] += 1
        return found

    def handle(self, topic: str, payload: bytes) -> bool:
        """Take one message; refuse, count and record what is wrong with it.

        Returns:
            Whether it is done with. False: the controller could not store it (its disk is full, its database does not
            answer), and it must be handed in again.
        """
        found = self.route(topic)
        if found is None:
            return True
        device, kind = found
        try:
            self._take(device, kind, payload)
            self.counters[kind] += 1
        except InvalidInput as error:
            self._refused(device, kind, error)
            if self._records.take(device):
                self._effects.record(device, f"{kind}: {error}")
        except UntrustedBundle as error:  # the register recorded it
            self._refused(device, kind, error)
            self._effects.stranger(device)
        except DsopsError as error:
            log.warning("%s of %s waits: %s", kind, device, error)
            return False
        return True

    def _take(self, device: str, kind: str, payload: bytes) -> None:
        if len(payload) > MAX_MESSAGE_BYTES:
            raise InvalidInput(f"a {kind} message is too long", why=f"{len(payload)} bytes")
        if kind == "conn":
            self._connection(device, payload)
        elif kind == "state":
            self._state(device, payload)
        elif kind == "need":
            self._need(device, payload)

    def _connection(self, device: str, payload: bytes) -> None:
        connection = decode(Connection, payload)
        if connection.device != device:
            raise InvalidInput("a birth or death is about another device", why=f"{connection.device}, not {device}")
        if self._reports.connection(connection):
            self._effects.wake()

    def _state(self, device: str, payload: bytes) -> None:
        # A broker hands retained reports out again at every connection: what was taken last is no news.
        digest = sha256_hex(payload)
        if self._last.get(device) == digest:
            return
        report = self._reports.observed(device, payload)
        self._last[device] = digest
        if report is not None:
            self._effects.wake()

    def _need(self, device: str, payload: bytes) -> None:
        need = decode(Need, payload)
        if not self._needs.take(device):
            self.counters["need_limited"] += 1
            return
        self._reports.require_accepted(device)
        self._effects.answer(device, need)

    def _refused(self, device: str, kind: str, error: DsopsError) -> None:
        self.counters["refused"] += 1
        if self._logs.take(device):
            log.warning("refused %s of %s: %s", kind, device, error)
