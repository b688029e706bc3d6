"""Makes further instances of models whose callers wait, beside the requests: no caller waits for one to be made.

A device where callers seldom meet never has more than one of a model.
"""

import logging
import weakref
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from dsops.errors import DsopsError
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.golden import check_instance
from dsops_agent.runtime.instances import Instance

logger = logging.getLogger(__name__)

LEAST_FREE_BYTES = 64 << 20
"""So much memory must be left to others."""
PAYLOADS = 4
"""An instance takes this many times the payload at most: what is made of its weights, and activations."""


class Growth:
    """Makes instances, one after the other. ``run`` is the body of its thread; all else may come from any thread.

    Args:
        most: How many instances of a model there may be.
        free_bytes: Tells the memory that this process may still have.
    """

    def __init__(self, most: int, free_bytes: Callable[[], int]) -> None:
        self.most = most
        self._free_bytes = free_bytes
        self._asked: SimpleQueue[weakref.ref[ServedModel] | None] = SimpleQueue()

    def ask(self, served: ServedModel) -> None:
        """Let another instance of a model be made, unless it is replaced before."""
        self._asked.put(weakref.ref(served))

    def run(self) -> None:
        """Make what is asked for, until :meth:`stop`."""
        while (asked := self._asked.get()) is not None:
            if (served := asked()) is not None:
                self.grow(served)
                del served  # its memory shall not wait for the next that is asked for

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._asked.put(None)

    def grow(self, served: ServedModel) -> None:
        """Make another instance, and let it take part once it answered a golden input as it should.

        One that cannot be made is not tried again; one that there is no memory for is, when callers go on waiting.
        """
        needed = LEAST_FREE_BYTES + PAYLOADS * served.payload_bytes
        if self._free_bytes() < needed:
            logger.info("model %s: no other instance, as less than %d MB are free", served.name, needed >> 20)
            served.instances.ask_again()
            return
        try:
            made = _made(served)
        except (DsopsError, MemoryError) as error:
            logger.warning("model %s: no other instance: %s", served.name, error or "not enough memory")
            return
        served.instances.add(made)
        logger.info("model %s: %d instances answer", served.name, served.instances.count)


def _made(served: ServedModel) -> Instance:
    marks = served.marks()
    made = Instance(marks.run(partial(served.loaded.batched, 1)), marks)  # what crashes or hangs here is this bundle's
    check_instance(served, made)
    return made
