"""Reports observed state: whole, signed by the device, at least once, the newest wins."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dsops import dsse
from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops.messages import ModelState, Observed, Problem, sign_observed
from dsops_agent.transport.ports import Broker

logger = logging.getLogger(__name__)

GAP_S = 0.2
"""Least time between two reports: five a second at most."""
REFRESH_S = 300.0
"""Without a change a report is sent again after so long."""
_RETRY_S = 5.0


class Source(Protocol):
    """What is reported."""

    def observed(self) -> Mapping[str, ModelState]:
        """Return the state of every model."""
        ...

    def seq(self) -> int:
        """Return the newest accepted directive's number."""
        ...

    def refused(self) -> Problem | None:
        """Return why the newest message was refused, if it was."""
        ...

    def clock_suspect(self) -> bool:
        """Return whether the host's clock contradicts what was signed."""
        ...


@dataclass(frozen=True)
class Signer:
    """Who reports.

    Attributes:
        device: This device.
        topic: Where reports are retained.
        key: Gives the device's private key, which changes when the identity is renewed.
        next_report: Makes the next report's payload by a function of its number and the digest of the payload before;
            its own number and digest are durable when it returns.
    """

    device: str
    topic: str
    key: Callable[[], dsse.PrivateKey]
    next_report: Callable[[Callable[[int, str | None], bytes]], bytes]


@dataclass
class Reporter:
    """Publishes a report soon after :meth:`changed`. :meth:`run` is the body of a thread.

    While there is no connection nothing is published; :meth:`changed` must be called after each new one.
    """

    signer: Signer
    source: Callable[[], Source]
    broker: Broker
    is_connected: Callable[[], bool]
    clock: Clock
    _changed: threading.Event = field(init=False, default_factory=threading.Event)

    def changed(self) -> None:
        """Report again, soon. Does not block."""
        self._changed.set()

    def run(self, stop: threading.Event) -> None:
        """Report until ``stop`` is set; what changed last is reported before the end."""
        sent_s = self.clock.monotonic_s()
        while not stop.is_set():
            is_due = self._changed.wait(0.5) or self.clock.monotonic_s() - sent_s > REFRESH_S
            if is_due and self.is_connected():
                self._changed.clear()
                self._try_to_report(stop)
                sent_s = self.clock.monotonic_s()
                stop.wait(GAP_S)
            elif is_due:
                stop.wait(GAP_S)
        if self._changed.is_set() and self.is_connected():
            self._try_to_report(stop)

    def _try_to_report(self, stop: threading.Event) -> None:
        try:
            self.report()
        except DsopsError as error:
            logger.warning("observed state was not reported: %s", error)
            self._changed.set()
            stop.wait(_RETRY_S)

    def report(self) -> None:
        """Publish one report.

        Raises:
            DsopsError: Its number and digest cannot be made durable, or it is too long.
        """
        payload = self.signer.next_report(self._compose)
        self.broker.publish(self.signer.topic, sign_observed(payload, self.signer.key()), retain=True)

    def _compose(self, counter: int, previous: str | None) -> bytes:
        source = self.source()
        observed = Observed(
            device=self.signer.device,
            counter=counter,
            time=self.clock.now(),
            seq=source.seq(),
            previous=previous,
            models=dict(source.observed()),
            refused=source.refused(),
            clock_suspect=source.clock_suspect(),
        )
        return observed.payload()
