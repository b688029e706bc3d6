"""The shifts of "Failing Loudly" (Rabanser, Günnemann and Lipton, NeurIPS 2019, section 4), but for adversarial ones.

Nine kinds in three strengths or shares make the 27 settings of the paper's table: Gaussian noise and geometric changes,
each small, medium and large; a class that is knocked out; a medium geometric change beside a knocked-out class; and the
same where only one class is left. Geometry is bilinear, with zeros outside, where the paper repeats the border.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Change = Callable[[Images, np.random.Generator], Images]

SHARES = (0.1, 0.5, 1.0)
"""Of the frames that are changed, or of the class that is knocked out."""
KNOCKED_OUT = 0


@dataclass(frozen=True)
class Geometry:
    """Largest changes of a frame: turns and shears in degrees, moves and zooms in shares of it."""

    turn: float
    move: float
    shear: float
    zoom: float
    flips_sideways: bool = False
    flips_upside_down: bool = False


@dataclass(frozen=True)
class Scenario:
    """One setting.

    Attributes:
        name: The paper's name of it.
        change: Which change frames may have; empty for none.
        share: Of the frames that have it.
        without: Share of the class that is left out.
        only: Whether nothing but that class is left.
    """

    name: str
    change: str = ""
    share: float = 0.0
    without: float = 0.0
    only: bool = False


def noisy(strength: float) -> Change:
    """Return a change that adds Gaussian noise of a standard deviation in 255ths of full scale."""

    def change(x: Images, rng: np.random.Generator) -> Images:
        return np.clip(x + rng.normal(0.0, strength / 255.0, x.shape), 0.0, 1.0).astype(np.float32)

    return change


def moved(by: Geometry) -> Change:
    """Return a change that turns, moves, shears and zooms each frame by amounts of its own."""

    def change(x: Images, rng: np.random.Generator) -> Images:
        return _warped(x, _matrices(by, len(x), rng), rng.uniform(-by.move, by.move, (len(x), 2)) * x.shape[1])

    return change


CHANGES: Mapping[str, Change] = {
    "small_gn": noisy(1.0),
    "medium_gn": noisy(10.0),
    "large_gn": noisy(100.0),
    "small_img": moved(Geometry(10, 0.05, 0.1, 0.1)),
    "medium_img": moved(Geometry(40, 0.2, 0.2, 0.2, flips_sideways=True)),
    "large_img": moved(Geometry(90, 0.4, 0.3, 0.4, flips_sideways=True, flips_upside_down=True)),
}


def scenarios() -> tuple[Scenario, ...]:
    """Return the 27 settings."""
    changed = [Scenario(f"{name}_{share}", name, share) for name in CHANGES for share in SHARES]
    without = [Scenario(f"ko_{share}", without=share) for share in SHARES]
    both = [Scenario(f"medium_img_0.5+ko_{share}", "medium_img", 0.5, share) for share in SHARES]
    only = [Scenario(f"only_zero+medium_img_{share}", "medium_img", share, only=True) for share in SHARES]
    return (*changed, *without, *both, *only)


def draw(
    scenario: Scenario, y: Labels, length: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return which frames a stream shows, with replacement, and which of them are changed."""
    weights = np.ones(len(y))
    if scenario.only:
        weights[y != KNOCKED_OUT] = 0.0
    else:
        weights[y == KNOCKED_OUT] = 1.0 - scenario.without
    rows = rng.choice(len(y), length, p=weights / weights.sum())
    return rows, rng.random(length) < scenario.share


def _matrices(by: Geometry, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return what leads from a place of the changed frame to one of the frame, about the middle, [N, 2, 2]."""
    turn = np.deg2rad(rng.uniform(-by.turn, by.turn, count))
    shear = np.deg2rad(rng.uniform(-by.shear, by.shear, count))
    zoom = rng.uniform(1.0 - by.zoom, 1.0 + by.zoom, (count, 2))
    turned = _stacked(np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn))
    sheared = _stacked(np.ones(count), -np.sin(shear), np.zeros(count), np.cos(shear))
    flips = np.ones((count, 2))
    for axis, is_on in ((1, by.flips_sideways), (0, by.flips_upside_down)):
        flips[:, axis] = np.where(rng.random(count) < 0.5 * is_on, -1.0, 1.0)
    matrices: NDArray[np.float64] = turned @ sheared * (zoom * flips)[:, None, :]
    return matrices


def _stacked(*parts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(parts, axis=-1).reshape(-1, 2, 2)


def _warped(x: Images, matrices: NDArray[np.float64], moves: NDArray[np.float64]) -> Images:
    side = x.shape[1]
    middle = (side - 1) / 2.0
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2) - middle
    places = grid @ matrices.transpose(0, 2, 1) + middle + moves[:, None]
    low = np.floor(places).astype(np.intp)
    part = places - low
    padded = np.pad(x[..., 0], ((0, 0), (1, 1), (1, 1)))
    found = np.zeros(places.shape[:2])
    for down in (0, 1):
        for right in (0, 1):
            at = np.clip(low + (down, right) + 1, 0, side + 1)
            weight = np.abs(1 - down - part[..., 0]) * np.abs(1 - right - part[..., 1])
            found += weight * padded[np.arange(len(x))[:, None], at[..., 0], at[..., 1]]
    return found.reshape(x.shape).astype(np.float32)
