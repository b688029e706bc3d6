"""Several frames in one run of the interpreter, where that changes no answer and saves time.

Whether a model allows it is tried, not guessed: the first requests with enough frames are answered frame by frame, and
the same frames are then run together. Only when every stored output is the same to the last bit, and the time a frame
is shorter, are later requests answered that way. So an answer never depends on the company that a frame came in. A
model whose graph fixes the number of frames, keeps a state or mixes frames is found out by this, and costs no memory
afterwards. The proof of a bundle does the same in its throw-away process, before the data process does.
"""

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial

import numpy as np

from dsops.errors import InvalidInput, InvalidModel
from dsops_agent.runtime.flight import Marks, Runner
from dsops_agent.runtime.interpreter import Interpreter
from dsops_agent.runtime.litert import Array

logger = logging.getLogger(__name__)

BATCH_FRAMES = 8
"""Frames of one run. Larger batches gain little more, and take more memory and more time from other callers."""
TRIED_FRAMES = 32
"""So many frames must be answered alike before batches are trusted."""
MOST_BYTES = 16 << 20
"""Inputs and outputs of a batch are no larger: with large frames nothing is gained, and much memory taken."""
MOST_TIME = 0.95
"""A frame of a batch must take no more than this share of what a single one takes."""


class State(Enum):
    """Whether a model is run in batches."""

    UNTRIED = "untried"
    """Not enough frames came at once yet."""
    REFUSED = "refused"
    """It does not allow it, answers differently, or gains nothing."""
    TRUSTED = "trusted"
    """It answers the same, and faster."""


class Batches:
    """Runs :data:`BATCH_FRAMES` frames at once, once that is known to be right.

    Args:
        single: The model's own interpreter, which runs frame by frame.
        most_time: The share of its time that a frame of a batch may take.
    """

    def __init__(self, single: Interpreter, most_time: float = MOST_TIME) -> None:
        self._single = single
        self._most_time = most_time
        self._batched: Interpreter | None = None
        self._free: list[Interpreter] = []
        self._trying = threading.Lock()
        self._alike = 0
        self._batch_ns: list[int] = []
        self._single_ns: list[float] = []
        size_bytes = sum(math.prod(one.shape) * one.dtype.itemsize for one in (*single.inputs, *single.outputs))
        is_out = single.runtime.delegate or size_bytes * BATCH_FRAMES > MOST_BYTES  # a delegate fixes shapes
        self.state = State.REFUSED if is_out else State.UNTRIED

    @contextmanager
    def lent(self, marks: Marks) -> Iterator[Interpreter | None]:
        """Lend what runs :data:`BATCH_FRAMES` frames at once, to who holds an instance; None: frames are run singly.

        There are as many as instances run batches at once; the first of that kind is there once batches are trusted,
        and who needs another makes it, as it was made for the trial, under the marks of the instance.
        """
        batched = self._taken(marks) if self.state is State.TRUSTED else None
        try:
            yield batched
        finally:
            if batched is not None:
                self._free.append(batched)

    def try_on(
        self, inputs: Sequence[Array], outputs: Sequence[Array], latency_us: Sequence[float], run: Runner
    ) -> None:
        """Run frames together that were answered one by one, and compare; does nothing when there is nothing to learn.

        Of a large request only so many frames are run again as are still to be seen.

        Args:
            inputs: Stored inputs, each [n, ...].
            outputs: What the model answered, stored, each [n, ...].
            latency_us: How long each frame took.
            run: Has a turn for each run, so that others are answered in between.
        """
        needed = slice(0, max(TRIED_FRAMES - self._alike, 0))
        inputs, outputs = ([values[needed] for values in one] for one in (inputs, outputs))
        is_telling = any((frames[1:] != frames[:1]).any() for frames in inputs)  # equal frames hide that they are mixed
        if self.state is not State.UNTRIED or not is_telling or not self._trying.acquire(blocking=False):
            return
        try:
            if self.state is State.UNTRIED:  # another thread may have decided in between
                self._compare(inputs, outputs, latency_us, run)
        except (InvalidInput, InvalidModel, MemoryError) as error:
            self._refuse(str(error) or "it takes too much memory")
        finally:
            self._trying.release()

    def _compare(
        self, inputs: Sequence[Array], outputs: Sequence[Array], latency_us: Sequence[float], run: Runner
    ) -> None:
        if self._batched is None:
            self._batched = run(partial(self._single.batched, BATCH_FRAMES))
        batched = self._batched
        for start in range(0, len(inputs[0]) - BATCH_FRAMES + 1, BATCH_FRAMES):
            rows = slice(start, start + BATCH_FRAMES)
            found, took_ns = run(partial(_timed, batched, [frames[rows] for frames in inputs]))
            self._batch_ns.append(took_ns)
            self._single_ns.append(sum(latency_us[rows]) * 1000)
            if not all(_is_same(got, expected[rows]) for got, expected in zip(found, outputs, strict=True)):
                self._refuse("frames are answered otherwise when they are run together")
                return
            self._alike += BATCH_FRAMES
        if self._alike < TRIED_FRAMES:
            return
        if min(self._batch_ns) > self._most_time * min(self._single_ns):  # the least disturbed of each
            self._refuse("it takes no less time")
            return
        self._free.append(batched)
        self.state, self._batched = State.TRUSTED, None

    def _taken(self, marks: Marks) -> Interpreter | None:
        with suppress(IndexError):
            return self._free.pop()
        try:
            return marks.run(partial(self._single.batched, BATCH_FRAMES))
        except (InvalidModel, MemoryError) as error:
            logger.info("frames are run one by one for now: %s", error)
            return None

    def _refuse(self, why: str) -> None:
        logger.info("frames of this model are run one by one: %s", why)
        self.state, self._batched = State.REFUSED, None


def _timed(interpreter: Interpreter, frames: Sequence[Array]) -> tuple[list[Array], int]:
    """Return what an interpreter answers, and how long it took, in ns."""
    began_ns = time.perf_counter_ns()
    found = interpreter.run_stored(frames)
    return found, time.perf_counter_ns() - began_ns


def _is_same(got: Array, expected: Array) -> bool:
    return got.shape == expected.shape and np.array_equal(got.view(np.uint8), expected.view(np.uint8))
