"""The port to what runs models: five members, whatever the runtime underneath is."""

from collections.abc import Sequence
from typing import Protocol

from dsops_agent.runtime.litert import Array, Runtime, TensorDetails


class Interpreter(Protocol):
    """Runs one model. Not thread-safe: callers take turns."""

    @property
    def runtime(self) -> Runtime:
        """What runs it, and by which delegate."""
        ...

    @property
    def inputs(self) -> tuple[TensorDetails, ...]:
        """Its inputs, in order."""
        ...

    @property
    def outputs(self) -> tuple[TensorDetails, ...]:
        """Its outputs, in order."""
        ...

    def run_stored(self, inputs: Sequence[Array]) -> list[Array]:
        """Run once, stored values in and out, each [frames, ...] with as many frames as it was made for.

        Raises:
            InvalidInput: Their shape or type does not fit.
            InvalidModel: The model fails.
        """
        ...

    def batched(self, frames: int) -> "Interpreter":
        """Return another interpreter of the same model, of the very same bytes, that runs so many frames at once.

        It runs on the processor. Safe to call while this one runs.

        Raises:
            InvalidModel: The model does not allow it.
        """
        ...
