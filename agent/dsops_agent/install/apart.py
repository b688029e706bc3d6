"""Does for challengers beside the worker what may take long: a process that hangs, or gets no processor, keeps nobody.

What an errand found comes back as a message, as with proofs (:mod:`dsops_agent.install.proving`). Challengers wait for
each other here, champions never for a challenger.
"""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from dsops.errors import DsopsError
from dsops_agent.install.places import is_challenger

logger = logging.getLogger(__name__)

_LOOK_S = 0.5


@dataclass(frozen=True, eq=False)
class Errand:
    """What is to be done for a place, who takes what comes of it, on the worker's thread, and what came of it."""

    place: str
    work: Callable[[], Any]
    then: Callable[["Future[Any]"], None]
    found: "Future[Any]" = field(default_factory=Future)


class Apart:
    """The errands of challengers, one after the other.

    ``takes``, ``begin`` and ``take`` are the worker's; ``run`` is the body of a thread. As long as that does not run,
    the worker does everything itself.

    Args:
        put: Takes an errand that has ended.
    """

    def __init__(self, put: Callable[[Errand], object]) -> None:
        self._put = put
        self._asked: queue.SimpleQueue[Errand] = queue.SimpleQueue()
        self._newest: dict[str, Errand] = {}
        self._is_running = False

    def takes(self, place: str) -> bool:
        """Return whether the work of a place is done here."""
        return self._is_running and is_challenger(place)

    def begin(self, errand: Errand) -> None:
        """Ask for an errand. It replaces the one before of the place: nobody wants to know any more what that found."""
        self._newest[errand.place] = errand
        self._asked.put(errand)

    def take(self, errand: Errand) -> bool:
        """Return whether an errand that ended is wanted still; it is not any more then."""
        is_wanted = self._newest.get(errand.place) is errand
        if is_wanted:
            del self._newest[errand.place]
        return is_wanted

    def run(self, stop: threading.Event) -> None:
        """Do what is asked for until ``stop`` is set."""
        self._is_running = True
        while not stop.is_set():
            try:
                errand = self._asked.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if self._newest.get(errand.place) is errand:
                _do(errand)
                self._put(errand)


def _do(errand: Errand) -> None:
    try:
        errand.found.set_result(errand.work())
    except DsopsError as error:
        errand.found.set_exception(error)
    except Exception as error:  # the border of the thread, which must live
        logger.exception("what was done for %s failed", errand.place)
        errand.found.set_exception(error)
