"""The delegate of a data process: tried once, used while it can be, and reported when it cannot."""

import logging
import threading
from collections.abc import Callable

from dsops_agent.runtime.delegate import Delegate, shown, why_unusable
from dsops_agent.runtime.litert import Runtime

logger = logging.getLogger(__name__)


class Accelerator:
    """Knows whether the device's delegate can be used. Safe to call from several threads.

    Args:
        wanted: The delegate that the configuration names; None for none.
        fell_back: Told why models run on the processor instead, whenever the reason changes.
    """

    def __init__(self, wanted: Delegate | None, fell_back: Callable[[str, str], None] | None = None) -> None:
        self._wanted = wanted
        self._fell_back = fell_back
        self._lock = threading.Lock()
        self._was_tried = False
        self._problem = ""

    def usable(self) -> Delegate | None:
        """Return the delegate if it can be used; the first call tries it in a process of its own, which takes time."""
        with self._lock:
            if self._wanted is not None and not self._was_tried:
                self._was_tried = True
                self._note(why_unusable(self._wanted))
            return None if self._problem else self._wanted

    def loaded(self, runtime: Runtime) -> None:
        """Take note of how a model was loaded: a delegate may refuse one model, and take another."""
        if runtime.fallback:
            with self._lock:
                self._note(runtime.fallback, is_lasting=False)

    def status(self) -> dict[str, object]:
        """Return the delegate's name, its operators, and why it is not used; nothing when none is wanted."""
        wanted = self._wanted
        if wanted is None:
            return {}
        with self._lock:
            return {"name": wanted.name, "operators": list(wanted.operators), "problem": self._problem}

    def _note(self, problem: str, *, is_lasting: bool = True) -> None:
        if not problem or self._wanted is None:
            return
        logger.warning("models run on the processor: the delegate %s is not used: %s", shown(self._wanted), problem)
        if is_lasting:
            self._problem = problem
        if self._fell_back:
            self._fell_back(self._wanted.name, problem)
