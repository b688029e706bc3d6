"""Threads that take turns at waiting for many connections: one at a time, the leader, waits for all of them.

What the leader answers itself wakes no other thread. Threads of a Python process that answer side by side wait for each
other's lock again and again, which takes several times what a small request does. Before it does something that may
take long, the leader hands over: another thread waits for the connections from then on, all but the one that is served.
A leader that takes long all the same, one whose interpreter hangs for example, is relieved within a moment. So nobody
waits for what another connection asks.

After Schmidt, O'Ryan, Kircher, Pyarali and Buschmann, "Leader/Followers" (Pattern-Oriented Software Architecture,
volume 2), which has no such relief.
"""

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

logger = logging.getLogger(__name__)

LOOK_S = 0.02
"""How often somebody looks whether the leader still serves what it served at the last look."""
SPARE = 4
"""So many threads wait to lead, and more of them end."""
_QUIET_S = 1.0
"""After so long without traffic nobody looks until there is some."""


class Line(Protocol):
    """A connection."""

    def fileno(self) -> int:
        """Return its descriptor."""
        ...

    def close(self) -> None:
        """Close it: nobody serves it any more."""
        ...


Served = TypeVar("Served", bound=Line)
Serve = Callable[[Served, "Lead[Served]"], bool]
"""Serves what can be read on a connection; returns whether the connection goes on."""


class Lead(Generic[Served]):
    """One thread's time as the leader.

    Attributes:
        is_held: Whether it goes on.
        serves: The connection that is served; None while all are waited for.
        turns: How many were served.
    """

    def __init__(self, crew: "Crew[Served]") -> None:
        self._crew = crew
        self.is_held = True
        self.serves: Served | None = None
        self.turns = 0

    def hand_over(self) -> None:
        """Let another thread lead, before something that may take long; does nothing when another one does."""
        if self.is_held:
            self._crew.relieve(self, self.turns)


class Crew(Generic[Served]):
    """The threads; they are made when they are needed.

    Args:
        name: What they are called.
        serve: What the leader does when something can be read on a connection.
    """

    def __init__(self, name: str, serve: Serve[Served]) -> None:
        self._name = name
        self._serve = serve
        self._epoll = select.epoll()
        self._call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._call, select.EPOLLIN)
        self._lines: dict[int, Served] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._lead: Lead[Served] | None = None
        self._ready: deque[int] = deque()  # the leader's
        self._baton = threading.Lock()
        self._baton.acquire()
        self._waiting = 0
        self._is_short = False  # of threads
        self._ends, self._over = False, threading.Event()
        self._traffic = threading.Event()
        self._looks = False

    def start(self) -> None:
        """Begin to serve."""
        self._begin(self._follow, self._name)
        self._begin(self._look_after, f"{self._name}-look")
        self._baton.release()

    def add(self, line: Served) -> None:
        """Serve a connection from now on.

        Raises:
            OSError: The kernel has no room for it.
        """
        with self._lock:
            self._listen(line)
            self._count += 1

    def end(self) -> None:
        """Let the threads end when no connection is left; none is added any more."""
        with self._lock:
            self._ends = True
            self._ring()

    def relieve(self, lead: Lead[Served], turn: int) -> None:
        """Let another thread lead, if what a leader serves is still the connection of that turn."""
        with self._lock:
            if not lead.is_held or lead.serves is None or lead.turns != turn:
                return
            if not self._waiting and not self._has_another():
                return  # it goes on alone, and others wait for it
            self._forget(lead.serves)
            lead.is_held = False
            self._baton.release()

    def _has_another(self) -> bool:
        """Make a follower; return whether one could be had."""
        try:
            self._begin(self._follow, self._name)
        except RuntimeError as error:
            if not self._is_short:  # tried again and again: said once
                logger.warning("no further thread can be had: %s", error)
            self._is_short = True
            return False
        self._is_short = False
        return True

    def _follow(self) -> None:
        """Wait to lead, and lead, until the end; the body of each thread."""
        while self._is_needed():
            self._baton.acquire()
            with self._lock:
                self._waiting -= 1
            if self._over.is_set():
                self._baton.release()  # for the next one, who ends as well
                return
            lead = self._lead = Lead(self)
            while lead.is_held:
                self._try_turn(lead)

    def _try_turn(self, lead: Lead[Served]) -> None:
        try:
            self._turn(lead)
        except Exception:  # no memory, say: without a leader nobody would be answered any more
            logger.exception("the connections could not be served")
            time.sleep(LOOK_S)

    def _is_needed(self) -> bool:
        with self._lock:
            if self._waiting >= SPARE and not self._over.is_set():
                return False
            self._waiting += 1
            return True

    def _turn(self, lead: Lead[Served]) -> None:
        """Serve who can be served now, in turn; who follows begins with those that a leader did not come to."""
        if not self._ready:
            self._ready.extend(descriptor for descriptor, _ in self._epoll.poll())
        while lead.is_held and self._ready:
            line = self._lines.get(self._ready.popleft())
            if line is None:
                self._end_if_last(lead)
                continue
            lead.turns += 1
            lead.serves = line
            if not self._looks:
                self._traffic.set()
            self._done(lead, line, goes_on=self._served(line, lead))

    def _served(self, line: Served, lead: Lead[Served]) -> bool:
        try:
            return self._serve(line, lead)
        except Exception:  # the border to one connection: the others go on
            logger.exception("a connection failed")
            return False

    def _done(self, lead: Lead[Served], line: Served, *, goes_on: bool) -> None:
        if not goes_on:
            lead.hand_over()  # to close may take long: descriptors that the caller sent, and nobody took, go with it
        with self._lock:
            lead.serves = None
            if goes_on and (lead.is_held or self._listens_again(line)):
                return
            if lead.is_held:
                self._forget(line)
            self._count -= 1
            if self._ends:
                self._ring()
        line.close()

    def _end_if_last(self, lead: Lead[Served]) -> None:
        with self._lock:
            if not self._ends or self._count:
                with suppress(BlockingIOError):
                    os.eventfd_read(self._call)
                return
            lead.is_held = False
            self._over.set()
            self._epoll.close()
            os.close(self._call)
            self._traffic.set()
            self._baton.release()

    def _ring(self) -> None:
        """Let the leader look whether this is the end."""
        if not self._over.is_set():  # else the descriptor may be another's
            os.eventfd_write(self._call, 1)

    def _listens_again(self, line: Served) -> bool:
        try:
            self._listen(line)
        except OSError as error:
            logger.warning("a connection is ended: %s", error)
            return False
        return True

    def _listen(self, line: Served) -> None:
        self._epoll.register(line.fileno(), select.EPOLLIN)
        self._lines[line.fileno()] = line

    def _forget(self, line: Served) -> None:
        del self._lines[line.fileno()]
        self._epoll.unregister(line.fileno())

    def _begin(self, body: Callable[[], None], name: str) -> None:
        threading.Thread(target=body, name=name, daemon=True).start()

    def _look_after(self) -> None:
        """Relieve leaders who take long; the body of a thread, which sleeps while nobody asks anything."""
        seen: tuple[Lead[Served] | None, int] = (None, 0)
        rests_since_s = time.monotonic()
        self._looks = True
        while not self._over.is_set():
            lead = self._lead
            turn = (lead, lead.turns if lead else 0)
            if turn != seen:
                seen, rests_since_s = turn, time.monotonic()
            elif lead and lead.serves:
                self.relieve(lead, seen[1])
            elif time.monotonic() - rests_since_s > _QUIET_S:
                self._rest()
            self._over.wait(LOOK_S)

    def _rest(self) -> None:
        self._traffic.clear()
        self._looks = False  # before the look, so that whoever serves after it wakes this thread
        if not (self._lead and self._lead.serves) and not self._over.is_set():
            self._traffic.wait()
        self._looks = True
