"""Prints: nearly identical frames are alike, others are not."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dsops_agent.drift.likeness import alike, print_of


def scene(seed: int, side: int = 96) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Return a picture of a few bright boxes."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side, 3))
    for _ in range(6):
        top, left = rng.integers(0, side - side // 4, 2)
        picture[top : top + side // 4, left : left + side // 4] = rng.random(3)
    return picture


@pytest.mark.parametrize("side", [32, 96, 224])
def test_noise_and_light_do_not_make_another_frame_of_one(side: int) -> None:
    rng = np.random.default_rng(1)
    for seed in range(10):
        first = scene(seed, side)
        noisy = first + rng.normal(0.0, 0.02, first.shape)
        assert alike(print_of(first), print_of(noisy))
        assert alike(print_of(first), print_of(first * 0.9 + 0.05))
        assert alike(print_of((first * 255).astype(np.uint8)), print_of(first * 255))


def test_other_scenes_are_not_alike() -> None:
    prints = [print_of(scene(seed)) for seed in range(60)]
    pairs = [(one, two) for at, one in enumerate(prints) for two in prints[:at]]
    assert not any(alike(one, two) for one, two in pairs)


def test_different_digits_of_one_class_are_not_alike() -> None:
    bunch = load_digits()
    prints = [print_of(image[..., None]) for image in bunch.images[bunch.target == 3]]
    pairs = [(one, two) for at, one in enumerate(prints) for two in prints[:at]]
    assert sum(alike(one, two) for one, two in pairs) <= 0.001 * len(pairs)


def test_rows_are_alike_when_they_round_to_the_same() -> None:
    row = np.array([0.5, -200.0, 3e6, 0.0])
    assert alike(print_of(row), print_of(row * 1.0001))
    assert not alike(print_of(row), print_of(row * 1.5))
    assert not alike(print_of(row), print_of(row[::-1].copy()))


def test_values_without_a_number_have_a_print_too() -> None:
    for frame in (np.array([np.nan, 1.0, np.inf]), np.full((16, 16, 1), np.nan), np.zeros((16, 16, 1))):
        assert alike(print_of(frame), print_of(frame))
    assert not alike(print_of(np.zeros((16, 16, 1))), print_of(np.zeros(3)))
