"""Tells a service manager how the agent does, by the datagram protocol of sd_notify(3), and feeds its watchdog.

Source: sd_notify(3), sections "Description" (assignments, a newline between them) and "Notes" (the socket's address);
sd_watchdog_enabled(3). A process that nobody supervises so has neither variable, and nothing is sent.
"""

import logging
import os
import socket
from collections.abc import Mapping

from dsops_agent.heartbeats import Heartbeats, Late

logger = logging.getLogger(__name__)

MAX_STATUS_BYTES = 512
EXTENSION_S, EXTEND_EACH_S = 60, 20.0
"""How long a start may take from now on, and how often that is said."""


class NotifySocket:
    """The service manager's end. Sending never blocks and never fails: what is lost is said again by what follows.

    Args:
        environment: ``NOTIFY_SOCKET`` names the socket: a path, or with a leading ``@`` a name in the abstract space.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)

    @property
    def is_there(self) -> bool:
        """Whether anybody supervises this process."""
        return self._socket is not None

    def send(self, *assignments: str) -> None:
        """Send assignments such as ``READY=1``, in one datagram."""
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            logger.debug("the service manager was not told %s: %s", assignments[0], error)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def watchdog_period_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Return how often the watchdog is to be fed: half of its time (sd_watchdog_enabled(3)); None without one."""
    text, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(pid))
    if not text.isdecimal() or not int(text) or whose != str(pid):
        return None
    return int(text) / 2e6


class ServiceManager:
    """What the agent says to whoever started it. :meth:`turn` is a part of the main loop.

    Args:
        hearts: Without progress of all of them the watchdog is not fed.
        environment: As the process got it.
    """

    def __init__(self, hearts: Heartbeats, environment: Mapping[str, str] = os.environ) -> None:
        self._hearts = hearts
        self._socket = NotifySocket(environment)
        self._period_s = watchdog_period_s(environment, os.getpid())
        self._fed_s = float("-inf")
        self._is_ready = False
        self._extended_s = float("-inf")
        self._said = ""
        self._late: tuple[Late, ...] = ()

    def turn(self, now_s: float, is_ready: bool, line: str) -> None:
        """Say once that the agent is ready, its line for people when that changed, and feed the watchdog if it is due.

        While it is not ready and its loops make progress, more time for the start is asked for (sd_notify(3),
        EXTEND_TIMEOUT_USEC): the limit of the unit holds for a start that hangs.

        Args:
            now_s: Time, of the clock of the heartbeats.
            is_ready: Whether the agent can answer.
            line: How it does, for ``systemctl status``.
        """
        news = []
        if is_ready and not self._is_ready:
            self._is_ready = True
            news.append("READY=1")
        late = self._hearts.late(now_s)
        line = _one_line(str(late[0]) if late else line)
        if line != self._said:
            self._said = line
            news.append(f"STATUS={line}")
        if self._must_extend(now_s, late):
            self._extended_s = now_s
            news.append(f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}")
        if self._is_due(now_s, late):
            self._fed_s = now_s
            news.append("WATCHDOG=1")
        if news:
            self._socket.send(*news)
        self._tell(late)

    def stopping(self) -> None:
        """Say that the agent ends in order."""
        self._socket.send("STOPPING=1", "STATUS=the agent stops")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _must_extend(self, now_s: float, late: tuple[Late, ...]) -> bool:
        """Whether the start takes long and makes progress: to read large bundles again from a slow disk is no hang."""
        is_at_work = not self._is_ready and self._hearts.is_any and not late
        return is_at_work and now_s - self._extended_s >= EXTEND_EACH_S

    def _is_due(self, now_s: float, late: tuple[Late, ...]) -> bool:
        return self._period_s is not None and not late and now_s - self._fed_s >= self._period_s

    def _tell(self, late: tuple[Late, ...]) -> None:
        if {one.name for one in late} != {one.name for one in self._late}:
            for one in late:
                logger.error("%s: the watchdog is not fed", one)
        self._late = late


def _one_line(text: str) -> str:
    return " ".join(text.split()).encode()[:MAX_STATUS_BYTES].decode(errors="ignore")
