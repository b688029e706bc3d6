"""Data for a build: checked arrays by input, and the ``.npz`` files that they come from.

A data file of a model with one input holds ``x`` (or an array under the input's name); with several inputs, one array
under each one's name. ``y`` is the truth and ``slice.<name>`` are groupings of the frames. Frames have the input's
shape without its batch axis, and come first: [N, ...].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsops.errors import InvalidInput
from dsops.manifest import TensorSpec
from dsops_controller.build.npz import open_npz

Array = NDArray[Any]
Floats = NDArray[np.float32]

ONLY_INPUT = "x"
"""Name of the frames' array in a file for a model with one input."""
TRUTH = "y"
SLICE_PREFIX = "slice."
_OWN_DTYPES: dict[str, np.dtype[Any]] = {
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class DataSet:
    """Frames, and what is known about each of them.

    Attributes:
        inputs: Arrays [N, ...] by the input's name: real values as float32 for float and quantized inputs, the input's
            own dtype for integers without a scale.
        y: Truth: int64 [N] for classes, float32 [N, ...] for regression, 0 or 1 for anomalies; None when there is none.
        slices: Groupings by name, [N] of str or int64.
    """

    inputs: Mapping[str, Array]
    y: Array | None = None
    slices: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()), ()))

    def rows(self, which: slice | NDArray[np.intp]) -> "DataSet":
        """Return some of the frames, with their truth and groupings."""
        return DataSet(
            {name: values[which] for name, values in self.inputs.items()},
            None if self.y is None else self.y[which],
            {name: values[which] for name, values in self.slices.items()},
        )


def input_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """Return the dtype in which data for an input is given: float32 for real values, its own for plain integers."""
    return np.dtype(np.float32) if spec.scale or spec.datatype in ("FP32", "FP16") else _OWN_DTYPES[spec.datatype]


def read_data(path: Path, specs: Sequence[TensorSpec], what: str, *, needs_truth: bool) -> DataSet:
    """Read a data file. Nothing in it is executed, and no more is read than the arrays that are used.

    Args:
        path: An ``.npz`` file.
        specs: The model's inputs.
        what: What the data is for, for the error's text, such as "the calibration data".
        needs_truth: Refuse a file without ``y``.

    Raises:
        InvalidInput: The file cannot be read, or an array (the text names it) is missing or not as the model wants it.
    """
    with open_npz(path, what) as archive:
        named = {spec.name: _array_name(spec, len(specs), archive.names) for spec in specs}
        slices = [name for name in archive.names if name.startswith(SLICE_PREFIX)]
        wanted = [*named.values(), *([TRUTH] if needs_truth or TRUTH in archive.names else []), *slices]
        arrays = archive.read(wanted)
    where = f"{what} in {path.name}"
    inputs = {name: arrays[array] for name, array in named.items()}
    check_inputs(inputs, specs, where, shown=named)
    count = len(inputs[specs[0].name])
    return DataSet(
        inputs,
        _truth(arrays[TRUTH], count, where) if TRUTH in arrays else None,
        {name.removeprefix(SLICE_PREFIX): _grouping(arrays[name], count, f"{name!r} of {where}") for name in slices},
    )


def check_inputs(
    inputs: Mapping[str, Array], specs: Sequence[TensorSpec], what: str, shown: Mapping[str, str] | None = None
) -> None:
    """Check that a model can be given these frames.

    Args:
        inputs: Arrays by the input's name.
        specs: The model's inputs, batch axis included.
        what: What the data is, for the error's text.
        shown: What to call each input's array in the error's text, when it is not the input's name.

    Raises:
        InvalidInput: An array is missing, unknown, empty, longer than another, of the wrong dtype or shape, or holds
            NaN or an infinity.
    """
    expected = [spec.name for spec in specs]
    for name in expected:
        if name not in inputs:
            raise InvalidInput(f"{what} has no array {name!r}", why=f"the model's inputs are {', '.join(expected)}")
    unknown = sorted(set(inputs) - set(expected))
    if unknown:
        raise InvalidInput(f"{what} has an array {unknown[0]!r}", why=f"the model's inputs are {', '.join(expected)}")
    for spec in specs:
        _check_array(inputs[spec.name], spec, f"{(shown or {}).get(spec.name, spec.name)!r} of {what}")
    counts = {len(values) for values in inputs.values()}
    if len(counts) > 1:
        listed = ", ".join(f"{name}: {len(values)}" for name, values in inputs.items())
        raise InvalidInput(f"the arrays of {what} have different numbers of frames", why=listed)


def _check_array(values: Array, spec: TensorSpec, what: str) -> None:
    dtype = input_dtype(spec)
    if values.dtype != dtype:
        hint = f"convert it: values.astype('{dtype}')"
        raise InvalidInput(f"array {what} is {values.dtype}", why=f"{dtype} is needed", hint=hint)
    if values.ndim == 0 or len(values) == 0:
        raise InvalidInput(f"array {what} has shape {list(values.shape)}", why="frames are needed, one a row")
    if values.shape[1:] != spec.shape[1:]:
        raise InvalidInput(
            f"array {what} has frames of shape {list(values.shape[1:])}",
            why=f"the model's input is {list(spec.shape[1:])}",
        )
    _refuse_not_finite(values, what)


def _refuse_not_finite(values: Array, what: str) -> None:
    if values.dtype.kind != "f" or not values.size:
        return
    row = next((row for row, frame in enumerate(values) if not np.isfinite(frame).all()), None)
    if row is not None:
        raise InvalidInput(f"array {what} holds NaN or infinite values", why=f"the first is in frame {row}")


def _array_name(spec: TensorSpec, inputs_count: int, names: Sequence[str]) -> str:
    return ONLY_INPUT if inputs_count == 1 and spec.name not in names else spec.name


def _truth(y: Array, count: int, where: str) -> Array:
    what = f"{TRUTH!r} of {where}"
    if y.shape[:1] != (count,):
        raise InvalidInput(f"array {what} has shape {list(y.shape)}", why=f"there are {count} frames")
    _refuse_not_finite(y, what)
    kinds: dict[str, type[np.generic]] = {"b": np.int64, "i": np.int64, "u": np.int64, "f": np.float32}
    return y.astype(kinds[y.dtype.kind]) if y.dtype.kind in kinds else y


def _grouping(values: Array, count: int, what: str) -> Array:
    if values.shape != (count,) or values.dtype.kind not in "biuU":
        raise InvalidInput(
            f"array {what} is {values.dtype} {list(values.shape)}", why=f"whole numbers or texts [{count}] are needed"
        )
    return values if values.dtype.kind == "U" else values.astype(np.int64)
