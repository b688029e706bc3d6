"""What each model may spend on samples: neither another release nor another process of the device gives it anew.

What is left is noted in a file at each spending, with the time of the machine's boot, so that who goes on with it knows
what came in since. The note is not forced to the disk: it is for processes that end, and a boot begins anew anyway.
"""

import json
import logging
import math
import threading
from pathlib import Path

from dsops import strictjson
from dsops.clock import Clock
from dsops_agent.drift.budget import Budget
from dsops_agent.drift.sampler import Reason, SamplerSettings, new_budget

logger = logging.getLogger(__name__)

NAME = "sample-budgets.json"


class SampleBudgets:
    """Keeps one budget a model. Safe for use by several threads.

    Args:
        settings: What may be kept.
        clock: Tells the time.
        folder: Where the note is; None keeps none.
    """

    def __init__(self, settings: SamplerSettings, clock: Clock, folder: Path | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._file = None if folder is None else folder / NAME
        self._budgets: dict[str, Budget[Reason]] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._noted = {} if self._file is None else _noted(self._file)

    def of(self, model: str) -> Budget[Reason]:
        """Return the budget of a model, the same whatever release asks; full when nothing was spent in this boot."""
        with self._lock:
            if model not in self._budgets:
                now_s = self._clock.monotonic_s()
                made = new_budget(self._settings, now_s, self._note)
                tokens, at_s = self._noted.get(model, ({}, now_s))
                if at_s <= now_s:  # else it is of another boot
                    made.go_on(tokens, at_s)
                self._budgets[model] = made
            return self._budgets[model]

    def _note(self) -> None:
        if self._file is None:
            return
        with self._writing:
            with self._lock:
                noted = self._noted | {model: budget.left() for model, budget in self._budgets.items()}
            made = self._file.with_suffix(".new")
            try:
                made.write_bytes(strictjson.dumps({model: [tokens, at_s] for model, (tokens, at_s) in noted.items()}))
                made.replace(self._file)
            except OSError as error:
                logger.warning("what samples may take cannot be noted: %s", error)


def _noted(file: Path) -> dict[str, tuple[dict[Reason, float], float]]:
    """Return what was left of each model's budget, and when; nothing where there is no note that can be read."""
    try:
        told = json.loads(file.read_bytes())
        return {
            model: ({Reason(reason): _finite(left) for reason, left in tokens.items()}, _finite(at_s))
            for model, (tokens, at_s) in told.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(value)
    return float(value)
