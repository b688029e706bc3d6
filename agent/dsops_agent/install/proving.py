"""Proves candidates beside the worker: a thread runs the throw-away process, how it ended comes back as a message."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dsops.errors import DeviceError, DsopsError
from dsops.sealing import ContentKey
from dsops_agent.install.ports import ProveLimits, RuntimeControl

_LOOK_S = 0.5


@dataclass(frozen=True, eq=False)
class Proof:
    """One candidate to try. Once ``ended`` is set nobody wants to know any more."""

    model: str
    digest: str
    path: Path
    limits: ProveLimits
    key: ContentKey | None
    ended: threading.Event = field(default_factory=threading.Event)


class Proving:
    """The proofs that were asked for, one process at a time: two would have twice the memory.

    ``begin``, ``end`` and ``take`` are the worker's; ``run`` is the body of a thread. As long as that does not run, the
    worker does it itself (:attr:`is_apart`), and waits.

    Args:
        runtime: Has the throw-away process.
        put: Takes the proof and what was found, None when nothing was.
    """

    def __init__(self, runtime: RuntimeControl, put: Callable[[Proof, DsopsError | None], object]) -> None:
        self._runtime = runtime
        self._put = put
        self._asked: queue.SimpleQueue[Proof] = queue.SimpleQueue()
        self._wanted: dict[str, Proof] = {}
        self.is_apart = False

    def begin(self, proof: Proof) -> None:
        """Ask for a proof; it replaces the one before of the model."""
        self.end(proof.model)
        self._wanted[proof.model] = proof
        self._asked.put(proof)

    def end(self, model: str) -> None:
        """Give a model's proof up; its process is killed at once."""
        proof = self._wanted.pop(model, None)
        if proof:
            proof.ended.set()

    def end_all(self) -> None:
        """Give every proof up."""
        for model in tuple(self._wanted):
            self.end(model)

    def take(self, proof: Proof) -> bool:
        """Return whether a proof that ended is wanted still; it is not any more then."""
        is_wanted = self._wanted.get(proof.model) is proof
        if is_wanted:
            del self._wanted[proof.model]
        return is_wanted

    def run(self, stop: threading.Event) -> None:
        """Prove what is asked for until ``stop`` is set."""
        self.is_apart = True
        while not stop.is_set():
            try:
                proof = self._asked.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if not proof.ended.is_set():
                self._put(proof, self.find(proof))

    def find(self, proof: Proof) -> DsopsError | None:
        """Run one proof; return what is wrong with the candidate, or with the device that should try it."""
        try:
            self._runtime.prove(proof.path, proof.limits, proof.key, proof.ended)
        except DsopsError as error:
            return error
        except OSError as error:  # no process or file can be made: that condemns no bundle
            return DeviceError("the device cannot try the bundle", why=error.strerror or str(error))
        return None
