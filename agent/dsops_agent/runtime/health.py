"""Counts what a served bundle does, on the way of its requests: a lock and a few additions for each.

An answer with NaN or infinity in it is no answer: programs would act on it, and no comparison notices it. The model
failed, and the caller is told so.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from operator import add

import numpy as np

from dsops.bundle import sha256_hex
from dsops.clock import Clock
from dsops.errors import NotFinite
from dsops.manifest import Manifest, Task
from dsops.signals import bin_of
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.batches import BATCH_FRAMES, TRIED_FRAMES, State
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.figures import LATENCY_SCALE, MAX_LATENCY_BUCKET, Figures
from dsops_agent.runtime.histogram import bucket_index
from dsops_agent.runtime.litert import Array

SPAN_S = 1800.0
_SIGNALS = {
    Task.CLASSIFICATION: "predicted_class",
    Task.RECONSTRUCTION: "reconstruction_error",
    Task.REGRESSION: "output_mean",
    Task.OTHER: "output_mean",
}
"""The one signal of each task's profile that says what a model answers; see :mod:`dsops.signals`."""
_MOST_TRIED = 2 * TRIED_FRAMES
"""A model may never be done with trying: after so many frames their time counts all the same."""
_LEAST_US = 0.001
"""A frame of a clock that is too coarse for it took this long."""
_DIGITS = 6
"""Signals are rounded so, here as in a profile: a value on the edge of a bin must fall on one side everywhere."""


class _Counts:
    """What happened in one span of time."""

    def __init__(self, bins: int) -> None:
        self.requests = self.failures = self.not_finite = self.frames = 0
        self.latency: Counter[int] = Counter()
        self.bins = [0] * bins


class Health:
    """What one served bundle did lately: since it was made, or in the last ``SPAN_S`` to twice that, if that is less.

    Lately, because the figures of a champion are what its successor is measured by, and what it saw last week is not
    what that one sees. Safe to call from several threads.

    Args:
        served: The bundle.
        clock: Tells the time.
    """

    def __init__(self, served: ServedModel, clock: Clock) -> None:
        manifest = served.manifest
        self._served = served
        self._clock = clock
        self._signal = next(one for one in served.profile.signals if one.name == _SIGNALS[manifest.task])
        self._meaning = sha256_hex(repr((self._signal.name, self._signal.edges, manifest.labels)).encode())
        self._may_be_infinite = [at for at, tensor in enumerate(served.loaded.outputs) if tensor.dtype.kind == "f"]
        self._before, self._now = self._fresh(), self._fresh()
        self._began_s = self._last_s = clock.monotonic_s()
        self._untried, self._tried = True, 0
        self._golden: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._place = _places(manifest, self._signal.edges)

    def answered(self, answer: Answer) -> None:
        """Take note of an answer.

        Raises:
            NotFinite: It holds a value that is none; nothing but that was counted.
        """
        for at in self._may_be_infinite:
            if not np.isfinite(answer.outputs[at]).all():
                with self._lock:
                    self._span().not_finite += 1
                raise NotFinite(
                    f"the answer of model {self._served.name} is not finite",
                    why=f"output {self._served.loaded.outputs[at].name!r} holds NaN or infinity",
                )
        places = self._place(answer)
        buckets = [_bucket(latency_us) for latency_us in answer.latency_us]
        with self._lock:
            span = self._span()
            span.requests += 1
            if self._is_trial(len(buckets)):
                buckets = []
            span.frames += len(buckets)
            for bucket in buckets:  # few, for which update takes longer
                span.latency[bucket] += 1
            for place in places:
                span.bins[place] += 1
            self._last_s = self._clock.monotonic_s()

    def failed(self) -> None:
        """Take note of a request that the model could not answer."""
        with self._lock:
            span = self._span()
            span.requests += 1
            span.failures += 1

    def checked(self, latency_us: Sequence[float]) -> None:
        """Take note of how long golden inputs took: they are all there is on a device that nobody asks."""
        buckets = [_bucket(one) for one in latency_us]
        with self._lock:
            self._golden.update(buckets)

    def figures(self) -> Figures:
        """Return what was counted."""
        with self._lock:
            now, before = self._span(), self._before
            return Figures(
                digest=self._served.digest,
                requests=before.requests + now.requests,
                failures=before.failures + now.failures,
                not_finite=before.not_finite + now.not_finite,
                frames=before.frames + now.frames,
                latency=dict(before.latency + now.latency),
                golden=dict(self._golden),
                signal=self._signal.name,
                meaning=self._meaning,
                bins=tuple(map(add, before.bins, now.bins)),
                reference=self._signal.counts,
                budget_ms=self._served.manifest.budgets.max_latency_ms,
                idle_s=max(0.0, self._clock.monotonic_s() - self._last_s),
            )

    def _is_trial(self, frames: int) -> bool:
        """Return whether frames that could be run together were not, as that is tried with the first ones.

        Their time is no measure: a bundle that takes another one's place would be slower for that alone.
        """
        was_untried, self._untried = self._untried, self._served.batches.state is State.UNTRIED
        is_trial = was_untried and frames >= BATCH_FRAMES and self._tried < _MOST_TRIED
        self._tried += frames if is_trial else 0
        return is_trial

    def _span(self) -> _Counts:
        """Return the counts of the present span; the one before the last is forgotten."""
        now_s = self._clock.monotonic_s()
        if now_s - self._began_s >= SPAN_S:
            is_stale = now_s - self._began_s >= 2 * SPAN_S
            self._before, self._now = (self._fresh() if is_stale else self._now), self._fresh()
            self._began_s = now_s
        return self._now

    def _fresh(self) -> _Counts:
        return _Counts(len(self._signal.counts))


def _places(manifest: Manifest, edges: Sequence[float]) -> Callable[[Answer], list[int]]:
    """Return what tells the bin of each frame; it holds nothing of a bundle, so that a replaced one goes by itself."""
    if manifest.task is Task.CLASSIFICATION:
        return _chosen if manifest.postprocessing.threshold is None else _likeliest
    return partial(_scored if manifest.task is Task.RECONSTRUCTION else _levels, edges)


def _chosen(answer: Answer) -> list[int]:
    chosen: list[int] = answer.choices.tolist()
    return chosen


def _likeliest(answer: Answer) -> list[int]:
    """Return the classes that a profile counts; what a threshold chooses may be another one."""
    likeliest: list[int] = answer.scores.argmax(axis=1).tolist()
    return likeliest


def _scored(edges: Sequence[float], answer: Answer) -> list[int]:
    return _binned(edges, answer.scores)


def _levels(edges: Sequence[float], answer: Answer) -> list[int]:
    return _binned(edges, _means(answer.outputs[0]))


def _binned(edges: Sequence[float], values: Array) -> list[int]:
    return [bin_of(edges, float(f"{value:.{_DIGITS}g}")) for value in values.tolist()]


def _means(output: Array) -> Array:
    """Return each frame's mean as :func:`dsops.signals.measure` takes it: a sum, which takes half a mean's time."""
    flat = output.reshape(len(output), -1)
    means: Array = flat.sum(axis=1) / flat.shape[1]
    return means


def _bucket(latency_us: float) -> int:
    return min(bucket_index(max(latency_us, _LEAST_US), LATENCY_SCALE), MAX_LATENCY_BUCKET)
