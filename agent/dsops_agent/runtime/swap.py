"""The models that answer now, by name, and their change without a gap.

A request takes its model once and keeps it to its end. A swap replaces the entry under a lock after the new model has
answered a frame; the old model's memory goes when its last request is done, because nothing else refers to it then.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dsops.bundle import Bundle
from dsops.clock import Clock, SystemClock
from dsops.errors import InvalidInput, MalformedBundle, NotFound
from dsops_agent.runtime.accelerator import Accelerator
from dsops_agent.runtime.answer import Answer, Exchange
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.flight import FlightRecorder
from dsops_agent.runtime.golden import check_golden
from dsops_agent.runtime.growth import Growth
from dsops_agent.runtime.health import Health

if TYPE_CHECKING:
    from dsops.sealing import ContentKey

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Totals:
    """What happened since a bundle was activated: frames answered, requests failed, and what the drift monitor says."""

    requests: int = 0
    errors: int = 0
    drift_level: str = "ok"
    drift_score: float = 0.0


class Watch(Protocol):
    """Is told of everything that one served model does."""

    @property
    def totals(self) -> Totals:
        """What happened since the bundle was activated."""
        ...

    def answered(self, answer: Answer) -> None:
        """Count an answered request, before the caller has the answer."""
        ...

    def failed(self) -> None:
        """Count a request that the model could not answer."""
        ...

    def observe(self, exchanges: Sequence[Exchange]) -> None:
        """Look at what was asked and answered; the part that takes time, and that may be left out under load."""
        ...

    def disputed(self, exchange: Exchange, distances: Mapping[int, float]) -> None:
        """Look at frames, by row, that the challenger answered otherwise; from a thread of the challenger's own."""
        ...

    def shed(self, frames: int) -> None:
        """Count answered frames that were not looked at."""
        ...


@dataclass(frozen=True)
class Serving:
    """A served model, who watches it, and what it did; they come and go together."""

    model: ServedModel
    watch: Watch
    health: Health


class Models:
    """The models that answer now.

    Args:
        threads: Threads of each interpreter.
        watch: Makes the watch of a model before it takes its first request.
        delegate: The device's accelerator, if it has one.
        flights: Keeps what the interpreters run where it outlives this process.
        clock: Tells the time.
        growth: Makes further instances of them.
    """

    def __init__(
        self,
        threads: int,
        watch: Callable[[ServedModel], Watch],
        delegate: Accelerator | None = None,
        flights: FlightRecorder | None = None,
        clock: Clock | None = None,
        growth: Growth | None = None,
    ) -> None:
        self._threads = threads
        self._growth = growth
        self.accelerator = delegate or Accelerator(None)
        self._watch = watch
        self._flights = flights
        self._clock = clock or SystemClock()
        self._serving: dict[str, Serving] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def get(self, name: str) -> Serving:
        """Return what serves a model now.

        Raises:
            NotFound: No model of that name is active.
        """
        with self._lock:
            found = self._serving.get(name)
        if found is None:
            raise NotFound(f"no model {name!r} is active", hint=f"active models: {', '.join(self.names()) or 'none'}")
        return found

    @property
    def count(self) -> int:
        """How many are active."""
        return len(self._serving)

    def names(self) -> list[str]:
        """Return the names of the active models, sorted."""
        with self._lock:
            return sorted(self._serving)

    def all(self) -> list[Serving]:
        """Return everything that is served, by name."""
        with self._lock:
            return [self._serving[name] for name in sorted(self._serving)]

    def activate(self, name: str, path: Path, digest: str, release: int, key: "ContentKey | None" = None) -> Serving:
        """Load a bundle, let it answer a frame, and put it in the place of what served that model before.

        A bundle of this digest must have been proved on this device (:mod:`dsops_agent.runtime.prove`). One that a
        delegate runs gives its golden answers here too: the proof may have had to do without the delegate. The content
        key of a sealed one is not kept: after a restart it must be given again.

        Raises:
            DigestMismatch: The file, or a blob of it, is not what was asked for.
            MalformedBundle: The file is not a bundle, or is one of another model or release.
            GoldenMismatch: It answers otherwise with the delegate than it should.
            BundleError: See :func:`dsops_agent.runtime.engine.load_bundle`.
        """
        with self._loading:  # one at a time: two models being loaded need memory twice
            serving = self._load(name, path, digest, release, key)
            with self._lock:
                before = self._serving.get(name)
                self._serving[name] = serving
        if before is None:
            logger.info("model %s: release %d answers", name, release)
        else:
            logger.info("model %s: release %d answers instead of %d", name, release, before.model.release)
        return serving

    def deactivate(self, name: str) -> None:
        """Stop serving a model; requests under way are answered.

        Raises:
            NotFound: No model of that name is active.
        """
        with self._loading, self._lock:
            found = self._serving.pop(name, None)
        if found is None:
            raise NotFound(f"no model {name!r} is active")
        logger.info("model %s: release %d no longer answers", name, found.model.release)

    def grow(self, served: ServedModel) -> None:
        """Let another instance of a model be made, later: its callers wait."""
        if self._growth:
            self._growth.ask(served)

    def _load(self, name: str, path: Path, digest: str, release: int, key: "ContentKey | None") -> Serving:
        bundle = Bundle.open(path)
        manifest = bundle.manifest
        if (manifest.model, manifest.release) != (name, release):
            raise MalformedBundle(
                f"{path.name} holds {manifest.model} {manifest.release}", why=f"{name} {release} was asked for"
            )
        served = load_bundle(bundle, digest, self._threads, key, is_proved=True, delegate=self.accelerator.usable())
        self.accelerator.loaded(served.loaded.runtime)
        if self._growth:
            served = replace(served, most_instances=self._growth.most)
        if self._flights:
            served = replace(served, marks=partial(self._flights.open, name, digest, manifest.budgets.max_latency_ms))
        try:
            served.warm_up()
            if served.loaded.runtime.delegate:
                check_golden(served)
        except InvalidInput as error:
            raise MalformedBundle(
                "the payload does not take the input that the manifest tells", why=str(error)
            ) from error
        return Serving(served, self._watch(served), Health(served, self._clock))
