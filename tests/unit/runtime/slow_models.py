"""A model that takes its time, and tells what it runs."""

import time
from collections.abc import Callable, Sequence

from dsops_agent.runtime.batches import MOST_TIME, Batches
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.interpreter import Interpreter
from dsops_agent.runtime.litert import Array, LoadedModel


class Slow:
    """A real model, before each run of which something is done, often nothing but to wait.

    Attributes:
        runs: How many frames each run had.
    """

    def __init__(self, real: LoadedModel | Interpreter, before: Callable[[], None] = lambda: time.sleep(0.06)) -> None:
        self._real, self._before = real, before
        self.inputs, self.outputs, self.runtime = real.inputs, real.outputs, real.runtime
        self.runs: list[int] = []

    def run_stored(self, inputs: Sequence[Array]) -> list[Array]:
        self._before()
        self.runs.append(len(inputs[0]))
        return self._real.run_stored(inputs)

    def batched(self, frames: int) -> Interpreter:
        made = Slow(self._real.batched(frames), self._before)
        made.runs = self.runs
        return made


def replace_loaded(served: ServedModel, slow: Slow, most_time: float = MOST_TIME) -> None:
    """Let a served model run on another interpreter from now on; nobody asks it yet."""
    vars(served).update(loaded=slow, batches=Batches(slow, most_time))
    vars(served).pop("instances", None)
