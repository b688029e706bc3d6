"""A model that is asked until it answers: whoever writes to standard input waits meanwhile, and loses nothing."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from dsops.errors import DsopsError, NotFound, NotServing, QueueFull, RuntimeCrashed, TimedOut
from dsops_agent.backoff import Backoff
from dsops_agent.feed.fit import Form, Frames
from dsops_agent.feed.ports import Answered, Model

logger = logging.getLogger(__name__)

MOST_CRASHES = 8
"""How often the inference process may fail over the same frames; then they are at fault, and others come next."""
_FIRST_WAIT_S, _MOST_WAIT_S = 0.2, 5.0
Found = TypeVar("Found")


class PatientModel:
    """Waits while a model is away, restarts or is busy. Implements :class:`dsops_agent.feed.ports.Model`. One thread.

    A model that nobody has heard of ends it at the start, where its name may be wrong; later it comes back.

    Args:
        model: The model.
        wait: Sleeps for so many seconds.
        draw: Returns a number in ``[0, 1)``, for the length of waits.
    """

    def __init__(
        self, model: Model, wait: Callable[[float], None] = time.sleep, draw: Callable[[], float] = random.random
    ) -> None:
        self._model = model
        self._wait = wait
        self._draw = draw
        self._passing: tuple[type[DsopsError], ...] = (NotServing, QueueFull, RuntimeCrashed, TimedOut)

    def form(self) -> Form:
        """Return the input that frames are for, once the model is there.

        Raises:
            DsopsError: What does not pass by itself.
        """
        found = self._patiently(self._model.form)
        self._passing = (*self._passing, NotFound) if NotFound not in self._passing else self._passing
        return found

    def ask(self, frames: Frames, request_id: str, key: str) -> Answered:
        """Ask about frames [n, ...] until there is an answer.

        Raises:
            RuntimeCrashed: The inference process failed over them :data:`MOST_CRASHES` times.
            DsopsError: What does not pass by itself.
        """
        return self._patiently(lambda: self._model.ask(frames, request_id, key))

    def _patiently(self, call: Callable[[], Found]) -> Found:
        backoff, crashes, said = Backoff(_FIRST_WAIT_S, _MOST_WAIT_S, self._draw), 0, ""
        while True:
            try:
                return call()
            except self._passing as error:
                crashes += isinstance(error, RuntimeCrashed)
                if crashes >= MOST_CRASHES:
                    raise
                if said != error.code:  # not at every try
                    said = error.code
                    logger.warning("waits for the model: %s", error)
                self._wait(backoff.next_s())
