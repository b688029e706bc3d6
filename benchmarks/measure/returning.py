"""A device returns samples of a stream that has changed, and a model is trained anew with them: digits, real frames.

The set-up is that of the label efficiency in the sampler's ADR: a part of the stream comes from a camera that was
tilted, some classes are rare, and what is returned is labelled without a mistake. Sampler, drift monitor and prints of
frames are the product's own.
"""

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rotate
from sklearn.datasets import load_digits

from dsops import signals
from dsops.manifest import Task, TensorSpec
from dsops.profile import Profile, Signal
from dsops_agent.drift.likeness import alike, print_of
from dsops_agent.drift.monitor import DriftMonitor
from dsops_agent.drift.oddness import Oddness
from dsops_agent.drift.sampler import SHARES, Frame, Reason, Sampler, SamplerSettings, new_budget
from dsops_agent.runtime.observe import SLICE_FRAMES
from dsops_controller.build import profile as building
from dsops_controller.demo.digits import LABELS, Images, Labelled, balanced_mix
from dsops_controller.demo.train import Weights, accuracy, probabilities, train

TILT_DEGREES = 35.0
TILT_SPREAD = 5.0
TILTED = 0.4
"""Of the stream."""
RARE = (8, 9)
RARENESS = 8
STREAM_FRAMES = 4000
EPOCHS = 15
SIZE_BYTES = 1000
SPECS = (TensorSpec(name="image", datatype="FP32", shape=(1, 8, 8, 1)),)
_CHOSEN = SHARES[Reason.RANDOM] + SHARES[Reason.UNCERTAIN] + SHARES[Reason.DRIFT]


@dataclass(frozen=True)
class Scene:
    """One random world: a model that was trained, what its camera sees now, and what a new model is judged by."""

    seed: int
    base: Labelled
    weights: Weights
    profile: Profile
    stream: Labelled
    judged: Labelled

    @property
    def judged_rare(self) -> Labelled:
        """The rare classes of what a new model is judged by."""
        return self.judged.take(np.flatnonzero(np.isin(self.judged.y, RARE)))


def make_scene(seed: int) -> Scene:
    """Return a world; the same seed gives the same one."""
    rng = np.random.default_rng(seed)
    bunch = load_digits()
    every = Labelled((bunch.images / 16.0).astype(np.float32)[..., None], bunch.target.astype(np.int64))
    order = rng.permutation(len(every))
    base, reference, pool, judged = (every.take(rows) for rows in np.split(order, [500, 850, 1400]))
    weights = train(base, seed, EPOCHS)
    return Scene(
        seed,
        base,
        weights,
        _profile(weights, reference.x),
        _stream(pool, rng),
        Labelled(_tilt(judged.x, rng), judged.y),
    )


def returned_at_random(scene: Scene, count: int) -> Labelled:
    """Return so many frames of the stream, each equally likely."""
    rng = np.random.default_rng([scene.seed, count])
    return scene.stream.take(rng.choice(len(scene.stream), count, replace=False))


def returned_by_the_sampler(scene: Scene, count: int) -> Labelled:
    """Return the frames, at most so many, that the product's sampler keeps of the stream under a budget for as many."""
    settings = SamplerSettings(
        bytes_per_day=1, burst_bytes=round(count * SIZE_BYTES / _CHOSEN), random_rate=0.1, min_gap_s=0.0, period_s=1e9
    )
    frames = scene.stream.x
    sampler: Sampler[int] = Sampler(
        settings, random.Random(scene.seed).random, new_budget(settings, 0.0), lambda at: print_of(frames[at]), alike
    )
    monitor, oddness = DriftMonitor(scene.profile), Oddness(scene.profile, _known())
    for start in range(0, len(frames), SLICE_FRAMES):
        x = frames[start : start + SLICE_FRAMES]
        scores = probabilities(scene.weights, x)
        measured = signals.measure(Task.CLASSIFICATION, [(0, x)], scores, scores)
        verdicts, odd = monitor.feed(measured), oddness.of(measured)
        for row, verdict in enumerate(verdicts):
            at = start + row
            frame = Frame(
                float(at), SIZE_BYTES, float(scores[row].max()), LABELS[int(scores[row].argmax())],
                verdict.level, odd[row], max(monitor.thin),
            )  # fmt: skip
            sampler.offer(frame, lambda at=at: at)  # type: ignore[misc]
    kept = sorted({one.content for one in sampler.release(1e9, is_end=True)})
    return scene.stream.take(np.array(kept[:count], np.int64))


def judge(scene: Scene, returned: Labelled, *, balanced: bool) -> tuple[float, float]:
    """Return the accuracy of a model that is trained anew, on tilted frames: of all classes, and of the rare ones.

    Args:
        scene: The world.
        returned: Labelled frames that came back.
        balanced: Whether they are drawn again and again until they are half of the training and their classes equal
            (the demonstration's recipe); else they are added as they are.
    """
    data = balanced_mix(scene.base, returned, scene.seed) if balanced else scene.base.join(returned)
    weights = train(data, scene.seed, EPOCHS)
    return accuracy(weights, scene.judged), accuracy(weights, scene.judged_rare)


def _stream(pool: Labelled, rng: np.random.Generator) -> Labelled:
    shares = np.where(np.isin(pool.y, RARE), 1.0 / RARENESS, 1.0)
    seen = pool.take(rng.choice(len(pool), STREAM_FRAMES, p=shares / shares.sum()))
    is_tilted = rng.random(STREAM_FRAMES) < TILTED
    x = np.array(seen.x)
    x[is_tilted] = _tilt(x[is_tilted], rng)
    return Labelled(np.clip(x + rng.normal(0.0, 0.02, x.shape), 0.0, 1.0).astype(np.float32), seen.y)


def _tilt(x: Images, rng: np.random.Generator) -> Images:
    angles = rng.normal(TILT_DEGREES, TILT_SPREAD, len(x))
    turned = [rotate(frame, angle, axes=(0, 1), reshape=False, order=1) for frame, angle in zip(x, angles, strict=True)]
    return np.clip(np.stack(turned), 0.0, 1.0).astype(np.float32)


def _known() -> dict[str, signals.Kind]:
    return signals.signals_of(Task.CLASSIFICATION, SPECS)


def _profile(weights: Weights, x: Images) -> Profile:
    scores: NDArray[np.float32] = probabilities(weights, x)
    measured = signals.measure(Task.CLASSIFICATION, [(0, x)], scores, scores)
    found = []
    for name, kind in _known().items():
        values = np.array(measured[name])
        edges = building.quantile_edges(values) if kind == "ordinal" else ()
        bins = len(edges) + 1 if kind == "ordinal" else len(LABELS)
        empty = Signal(name=name, kind=kind, edges=edges, counts=(0,) * bins)
        counts = np.bincount([empty.bin(value) for value in values.tolist()], minlength=bins)
        found.append(empty.model_copy(update={"counts": tuple(counts.tolist())}))
    return Profile(n_ref=len(x), signals=tuple(found))
