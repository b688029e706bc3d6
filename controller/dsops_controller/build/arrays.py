"""Data for a build: checked arrays, and the ``.npz`` files that they come from.

A file holds ``x``, float32 [N, H, W, C] or [N, F], as the model's input wants it (after preprocessing), and where
labels are needed ``y``, int64 [N].
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsops.errors import InvalidInput

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Frames float32 [N, ...] and the index of each one's label, int64 [N]."""

    x: Floats
    y: Labels


def check_frames(x: Floats, what: str, frame_shape: tuple[int, ...] | None = None) -> Floats:
    """Return ``x`` when it is a stack of frames that a model can be given.

    Args:
        x: The frames, [N, ...].
        what: What the data is, for the error's text.
        frame_shape: Shape of one frame, when it is known.

    Raises:
        InvalidInput: It is not float32, empty, of the wrong shape, or holds NaN or an infinity.
    """
    if x.dtype != np.float32:
        raise InvalidInput(f"{what} is {x.dtype}", why="float32 is needed", hint="convert it: x.astype('float32')")
    if x.ndim < 2 or len(x) == 0:
        raise InvalidInput(f"{what} has shape {list(x.shape)}", why="frames are needed, one a row")
    if frame_shape is not None and x.shape[1:] != frame_shape:
        raise InvalidInput(
            f"{what} has frames of shape {list(x.shape[1:])}", why=f"the model's input is {list(frame_shape)}"
        )
    bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
    if len(bad):
        raise InvalidInput(
            f"{what} holds NaN or infinite values", why=f"{len(bad)} frames do, the first is frame {bad[0]}"
        )
    return x


def check_labels(y: Labels, count: int, what: str, labels_count: int) -> Labels:
    """Return ``y`` when it gives each of ``count`` frames a label.

    Raises:
        InvalidInput: It has another length, is not whole numbers, or names a label outside 0 to ``labels_count`` - 1.
    """
    if y.dtype.kind not in "iu" or y.shape != (count,):
        raise InvalidInput(f"labels of {what} are {y.dtype} {list(y.shape)}", why=f"int64 [{count}] is needed")
    outside = np.flatnonzero((y < 0) | (y >= labels_count))
    if len(outside):
        row = outside[0]
        raise InvalidInput(f"{what} has label {y[row]} in row {row}", why=f"labels are 0 to {labels_count - 1}")
    return y.astype(np.int64)


def read_frames(path: Path) -> Floats:
    """Read ``x`` of a data file.

    Raises:
        InvalidInput: The file or the array cannot be read.
    """
    return np.asarray(_read(path, ("x",))["x"])


def read_labelled(path: Path) -> Labelled:
    """Read ``x`` and ``y`` of a data file.

    Raises:
        InvalidInput: The file or an array cannot be read.
    """
    found = _read(path, ("x", "y"))
    return Labelled(found["x"], found["y"])


def _read(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read arrays; nothing in the file is executed (pickles are refused)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise InvalidInput(
                    f"{path.name} has no array {missing[0]!r}", hint="np.savez(path, x=frames, y=labels)"
                )
            return {name: archive[name] for name in names}
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=error.strerror or "it is not an .npz file") from error
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise InvalidInput(
            f"{path.name} is not an .npz file of plain arrays", why=str(error).split("\n", 1)[0]
        ) from error
