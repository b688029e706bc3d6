"""The demonstration's data: 1,797 real scanned digits, split by a seed, and a camera that goes bad.

The images are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, UCI Machine
Learning Repository) as scikit-learn ships them; nothing is fetched.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

LABELS = tuple(str(digit) for digit in range(10))
REFERENCE_COUNT = 500
TEST_COUNT = 500
CALIBRATION_COUNT = 200

CONTRAST = 0.25
"""Share of the contrast that the bad camera keeps."""
HAZE_LEVEL = 0.55
"""Brightness of the haze over a whole frame, at its thinnest and thickest place plus and minus a half of it."""
NOISE_STD = 0.03
"""Standard deviation of the sensor's noise, in units of full scale."""


@dataclass(frozen=True)
class Labelled:
    """Images float32 [N, 8, 8, 1] in 0..1, and their labels int64 [N]."""

    x: Images
    y: Labels

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[np.int64]) -> "Labelled":
        """Return the named rows, in that order."""
        return Labelled(self.x[rows], self.y[rows])

    def join(self, other: "Labelled") -> "Labelled":
        """Return the rows of both."""
        return Labelled(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))


@dataclass(frozen=True)
class Splits:
    """What each part of the data is for; no image is in two of train, reference and test.

    ``calibration`` is a part of ``train``. ``reference`` makes the profile, the golden inputs and the evaluation of a
    build. ``test`` is what the devices' cameras see.
    """

    train: Labelled
    calibration: Labelled
    reference: Labelled
    test: Labelled

    @property
    def held_out(self) -> Labelled:
        """Reference and test together: what a clean camera can show for thousands of frames without seeming to drift.

        500 images shown again and again are a distribution of their own, and a monitor rightly finds, after some two
        thousand frames, that it is not quite that of 500 others.
        """
        return self.reference.join(self.test)


def splits(seed: int) -> Splits:
    """Split the digits, each class in proportion; the same seed gives the same split."""
    bunch = load_digits()
    every = Labelled((bunch.images / 16.0).astype(np.float32)[..., None], bunch.target.astype(np.int64))
    rest, test = _divide(every, TEST_COUNT, seed)
    train, reference = _divide(rest, REFERENCE_COUNT, seed)
    _, calibration = _divide(train, CALIBRATION_COUNT, seed)
    return Splits(train, calibration, reference, test)


def bad_camera(x: Images, seed: int) -> Images:
    """Return the frames as a fogged, underlit camera with a noisy sensor sees them.

    Three corruptions of ImageNet-C (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations", ICLR 2019, section 3) after one another: lower contrast, fog that is thicker in
    some places (here a smooth field of its own for each frame), and Gaussian noise; then clipping to its range.

    Args:
        x: Frames float32 [N, 8, 8, 1] in 0..1; not changed.
        seed: Chooses fog and noise.
    """
    rng = np.random.default_rng(seed)
    haze = HAZE_LEVEL * _smooth_fields(rng, len(x), x.shape[1])
    noise = rng.normal(0.0, NOISE_STD, x.shape)
    return np.clip(CONTRAST * x + haze + noise, 0.0, 1.0).astype(np.float32)


def balanced_mix(base: Labelled, extra: Labelled, seed: int, extra_share: float = 0.5) -> Labelled:
    """Return ``base`` with ``extra`` drawn again and again until it makes up ``extra_share`` and its classes are equal.

    Returned samples are few and uneven in their classes; drawing each class equally often is what makes the rare ones
    count. Every extra row is used at least once.
    """
    rng = np.random.default_rng(seed)
    wanted = round(len(base) * extra_share / (1.0 - extra_share))
    classes = np.unique(extra.y)
    per_class = -(-wanted // len(classes))
    rows = [_at_least(rng, np.flatnonzero(extra.y == label), per_class) for label in classes]
    return base.join(extra.take(np.concatenate(rows)))


def _at_least(rng: np.random.Generator, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.concatenate([rows, rng.choice(rows, max(0, count - len(rows)))])


def _divide(data: Labelled, count: int, seed: int) -> tuple[Labelled, Labelled]:
    kept, taken = train_test_split(np.arange(len(data)), test_size=count, random_state=seed, stratify=data.y)
    return data.take(kept), data.take(taken)


def _smooth_fields(rng: np.random.Generator, count: int, side: int) -> NDArray[np.float64]:
    """Return fields [count, side, side, 1] between 0.5 and 1.5: four random corners, the rest between them."""
    corners = rng.uniform(0.5, 1.5, (count, 2, 2))
    t = np.linspace(0.0, 1.0, side)
    blend = np.stack([1.0 - t, t], axis=1)
    return np.asarray(np.einsum("ai,nij,bj->nab", blend, corners, blend)[..., None])
