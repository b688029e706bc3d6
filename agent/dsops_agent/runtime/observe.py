"""Who looks at what was asked and answered, after the caller has the answer.

The request path only offers: into a queue with bounds, which never blocks. One thread hands what waits to the watch of
the bundle that answered, in slices, and rests nine times as long as each slice took: watching takes at most a tenth of
a processor, and never holds the interpreter's lock for longer than a slice. What does not fit into the queue is let go
and counted in the bundle's telemetry. Counts of requests, errors and latency do not come this way; they are never let
go.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dsops_agent.runtime.answer import Answer, Exchange
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.sent import Sent, SentInputs
from dsops_agent.runtime.swap import Serving, Watch

logger = logging.getLogger(__name__)

MAX_FRAMES = 4096
MAX_BYTES = 4 << 20
SLICE_FRAMES = 16
SLICE_BYTES = 640 << 10
"""Four pictures of 224 x 224 x 3: thirteen at once held up one request in ten by over a millisecond more."""
GATHER_S = 0.05
"""How long frames gather while there is traffic, so that they are looked at together and the queue wakes nobody until
half of it is taken.

A frame of a ResNet8 takes 0.3 ms among four and 0.19 ms among sixteen.
"""
_QUIET_S = 1.0
"""After so long without traffic the thread sleeps until it is woken."""
_REST = 9.0
"""Rest after a slice, in times of what it took."""


@dataclass(frozen=True)
class Observation:
    """A request that was answered.

    It waits for its watch, perhaps until many releases later: so it does not hold what answered it.

    Attributes:
        model: Name of the model that answered it.
        watch: That one's.
        inputs: Every input by name, each [n, ...], as the model was asked.
        answer: The answer.
        request_id: What the caller calls the request.
        copied: What the caller sent, when a copy of it shall go to a challenger.
        champion: What answered it, for the challenger.
    """

    model: str
    watch: Watch
    inputs: Mapping[str, Array]
    answer: Answer
    request_id: str
    copied: SentInputs | None = None
    champion: ServedModel | None = None

    @classmethod
    def of(
        cls,
        serving: Serving,
        inputs: Mapping[str, Array],
        answer: Answer,
        request_id: str,
        copied: SentInputs | None = None,
    ) -> "Observation":
        """Return what is kept of a request that ``serving`` answered."""
        champion = None if copied is None else serving.model
        return cls(serving.model.name, serving.watch, inputs, answer, request_id, copied, champion)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.answer.frames

    @property
    def size_bytes(self) -> int:
        """Size of its arrays."""
        sent = () if self.copied is None else [one.values for one in self.copied.values()]
        arrays = {id(array): array for array in (*self.inputs.values(), *self.answer.outputs, *sent)}
        return sum([array.nbytes for array in arrays.values()])

    @cached_property
    def exchange(self) -> Exchange:
        """What a watch is told."""
        return Exchange(self.inputs, self.answer, self.request_id)


Listener = Callable[[Observation], None]


class Observers:
    """Takes observations from the request path to the watches and to other listeners, in the order of the offers.

    ``offer`` is safe to call from several threads; ``run`` is the body of one thread.

    Args:
        max_frames: Frames that may wait.
        max_bytes: Bytes of arrays that may wait; a single observation may be larger.
    """

    def __init__(self, max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> None:
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        self._waiting: deque[Observation] = deque()
        self._frames = 0
        self._bytes = 0
        self._offered = 0
        self._done = 0
        self._listeners: tuple[Listener, ...] = ()
        self._wake = threading.Event()
        self._sleeps = False
        self._stopped = False

    def listen(self, listener: Listener) -> None:
        """Let a listener have every observation that is not let go, once; it must be quick, for the others wait."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def forget(self, listener: Listener) -> None:
        """Let a listener have nothing more."""
        with self._lock:
            self._listeners = tuple(one for one in self._listeners if one != listener)

    def offer(self, observation: Observation) -> bool:
        """Take an observation without waiting; False when it is let go for want of room. Never raises.

        Arrays over memory that the caller may write to again are copied.
        """
        try:
            has_room = self._put(observation)
            if not has_room:
                observation.watch.shed(observation.frames)
            if self._sleeps or self._is_filling:
                self._wake.set()
        except Exception:  # the border to observation: a caller gets the answer, whatever goes wrong in watching it
            logger.exception("model %s: an answer could not be recorded", observation.model)
            return False
        return has_room

    def run(self) -> None:
        """Hand on what is offered until :meth:`stop`, and then what still waits."""
        last_s = time.monotonic()
        while not self._stopped:
            if self._work():
                last_s = time.monotonic()
            if time.monotonic() - last_s < _QUIET_S:
                self._wake.wait(GATHER_S)
                self._wake.clear()
            else:
                self._sleep()
        self._work()

    def stop(self) -> None:
        """Let :meth:`run` return as soon as nothing waits."""
        self._stopped = True
        self._wake.set()

    def settle(self, timeout_s: float) -> bool:
        """Wait until everything that was offered before has been handed on; False when that takes too long."""
        with self._settled:
            wanted = self._offered
            self._wake.set()
            return self._settled.wait_for(lambda: self._done >= wanted, timeout_s)

    def mark(self) -> Callable[[], bool]:
        """Return what tells whether everything that was offered until now has been handed on."""
        with self._lock:
            wanted = self._offered
        return lambda: self._done >= wanted

    @property
    def _is_filling(self) -> bool:
        return self._bytes > self._max_bytes // 2 or self._frames > self._max_frames // 2

    def _put(self, observation: Observation) -> bool:
        with self._lock:
            frames, size_bytes = self._frames + observation.frames, self._bytes + observation.size_bytes
            if self._waiting and (frames > self._max_frames or size_bytes > self._max_bytes):
                return False
            # Copied while the caller still waits for its answer: until then it leaves its memory alone.
            self._waiting.append(_kept(observation))
            self._frames, self._bytes = frames, size_bytes
            self._offered += 1
            return True

    def _sleep(self) -> None:
        self._sleeps = True  # before the look, so that whoever offers after it wakes this thread
        if not self._waiting and not self._stopped:
            self._wake.wait()
        self._sleeps = False
        self._wake.clear()

    def _work(self) -> bool:
        """Hand on what waits; say whether anything did."""
        found = False
        while batch := self._next():
            found = True
            for listener in self._listeners:
                for observation in batch:
                    _tell(listener, observation)
            for exchanges in _slices([observation.exchange for observation in batch]):
                began_s = time.perf_counter()
                _show(batch[0], exchanges)
                if not self._stopped:
                    time.sleep((time.perf_counter() - began_s) * _REST)
            self._let_go(batch)
        return found

    def _next(self) -> list[Observation]:
        """Return what comes next, of one bundle and about a slice long; it takes room until it is let go."""
        batch: list[Observation] = []
        frames = size_bytes = 0
        with self._lock:
            for observation in self._waiting:
                frames += observation.frames
                size_bytes += observation.size_bytes
                if batch and (
                    observation.watch is not batch[0].watch or frames > SLICE_FRAMES or size_bytes > SLICE_BYTES
                ):
                    break
                batch.append(observation)
        return batch

    def _let_go(self, batch: Sequence[Observation]) -> None:
        with self._settled:
            for observation in batch:
                self._waiting.popleft()
                self._frames -= observation.frames
                self._bytes -= observation.size_bytes
            self._done += len(batch)
            self._settled.notify_all()


def _tell(listener: Listener, observation: Observation) -> None:
    try:
        listener(observation)
    except Exception:  # one listener's trouble is not the others'
        logger.exception("model %s: an answer could not be passed on", observation.model)


def _show(first: Observation, exchanges: Sequence[Exchange]) -> None:
    try:
        first.watch.observe(exchanges)
    except Exception:  # what is wrong with some frames must not end the watching
        logger.exception("model %s: an answer could not be recorded", first.model)
        first.watch.shed(sum(exchange.frames for exchange in exchanges))


def _slices(exchanges: list[Exchange]) -> list[list[Exchange]]:
    """Return the exchanges of a batch in slices; only one that is alone may have to be cut."""
    whole = exchanges[0]
    if len(exchanges) > 1 or whole.frames <= 1:
        return [exchanges]
    frame_bytes = sum(array.nbytes for array in whole.inputs.values()) // whole.frames
    step = min(max(SLICE_BYTES // max(frame_bytes, 1), 1), SLICE_FRAMES)
    if whole.frames <= step:
        return [exchanges]
    return [[whole.part(start, start + step)] for start in range(0, whole.frames, step)]


def _kept(observation: Observation) -> Observation:
    inputs, copied = observation.inputs, observation.copied
    shared = [*inputs.values(), *(one.values for one in (copied or {}).values())]
    copies = {id(array): np.array(array) for array in shared if not _is_private(array)}
    if not copies:
        return observation
    own = {name: copies.get(id(array), array) for name, array in inputs.items()}
    if copied is not None:
        copied = {name: Sent(one.form, copies.get(id(one.values), one.values)) for name, one in copied.items()}
    return replace(observation, inputs=own, copied=copied)


def _is_private(array: Array) -> bool:
    """Whether the memory is NumPy's own or that of immutable bytes, and not, say, shared with another process."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    return root.base is None or isinstance(root.base, bytes)
