"""Streams of frames with a known truth, as rows of a pool; detectors of any environment can be shown the same.

A pool has the clean frames of a camera and, after them, the same frames after each change. A stream is a row of numbers
into it. Video is imitated in two ways: bursts of one class, and frames that are held.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from measure.cameras import Camera, Floats
from measure.shifts import CHANGES, Scenario, draw

Rows = NDArray[np.int32]

BURST = 20
"""Frames of one class in a row, on average."""
HELD = (5, 30)


@dataclass(frozen=True)
class Pool:
    """Frames: their signals [P, S] by name, and the scores of the model [P, 10]."""

    names: tuple[str, ...]
    columns: Floats
    scores: NDArray[np.float32]

    def frames(self, rows: Rows) -> dict[str, list[float]]:
        """Return the signals of some frames, as a monitor is fed them."""
        return dict(zip(self.names, self.columns[rows].T.tolist(), strict=True))


def pool_of(camera: Camera) -> Pool:
    """Return all frames of a camera."""
    seen = [camera.clean, *(camera.changed[name] for name in CHANGES)]
    columns, scores = np.concatenate([one.columns for one in seen]), np.concatenate([one.scores for one in seen])
    return Pool(tuple(camera.clean.signals), columns, scores)


def independent(camera: Camera, length: int, rng: np.random.Generator) -> Rows:
    """Return clean frames, drawn with replacement."""
    return rng.integers(len(camera.y), size=length).astype(np.int32)


def bursts(camera: Camera, length: int, rng: np.random.Generator) -> Rows:
    """Return clean frames that come in bursts of one class."""
    found: list[Rows] = []
    left = length
    by_class = [np.flatnonzero(camera.y == label) for label in range(10)]
    while left > 0:
        rows = by_class[camera.y[rng.integers(len(camera.y))]]
        found.append(rng.choice(rows, min(int(rng.geometric(1 / BURST)), left)).astype(np.int32))
        left -= len(found[-1])
    return np.concatenate(found)


def held(rows: Rows, times: int) -> Rows:
    """Return a stream in which each frame stays for some time, of the same length."""
    return np.repeat(rows[: -(-len(rows) // times)], times)[: len(rows)]


def drifting(camera: Camera, scenario: Scenario, length: int, rng: np.random.Generator) -> Rows:
    """Return frames of a shift."""
    rows, is_changed = draw(scenario, camera.y, length, rng)
    offset = (1 + list(CHANGES).index(scenario.change)) * len(camera.y) if scenario.change else 0
    return (rows + is_changed * offset).astype(np.int32)


def save(path: Path, camera: Camera, pool: Pool, clean: Rows, drift: Rows, lead: int) -> None:
    """Write what another environment needs: the pool, the reference, clean streams [n, T] and drifting ones.

    The first ``lead`` frames of a drifting stream are clean.
    """
    np.savez(
        path,
        names=np.array(pool.names),
        columns=pool.columns,
        scores=pool.scores,
        reference=camera.reference.columns,
        reference_scores=camera.reference.scores,
        clean=clean,
        drift=drift,
        lead=lead,
    )
