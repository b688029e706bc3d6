"""Data for a build: checked arrays by input, and the ``.npz`` files that they come from.

A data file of a model with one input holds ``x`` (or an array under the input's name); with several inputs, one array
under each one's name. ``y`` is the truth and ``slice.<name>`` are groupings of the frames. Frames have the input's
shape without its batch axis, and come first: [N, ...]. Where the recipe says what raw frames are, an array may hold
those instead; real values are made of them as a device makes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsops.errors import InvalidInput
from dsops.forms import Form, accepted_forms, form_of
from dsops.manifest import Preprocessing, TensorSpec
from dsops.preprocess import prepare
from dsops_controller.build.npz import Announced, open_npz

Array = NDArray[Any]
Floats = NDArray[np.float32]

ONLY_INPUT = "x"
"""Name of the frames' array in a file for a model with one input."""
TRUTH = "y"
SLICE_PREFIX = "slice."
MAX_SLICE_LABEL = 256
"""A grouping's text has no more characters."""
_CHARACTER_BYTES = 4
"""NumPy stores texts as UTF-32."""
_CHECKED_VALUES = 1 << 20
"""How many values are looked at in one go."""
_OWN_DTYPES: dict[str, np.dtype[Any]] = {
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}
_DATATYPES = {dtype: name for name, dtype in _OWN_DTYPES.items()} | {np.dtype(np.float32): "FP32"}


@dataclass(frozen=True)
class DataSet:
    """Frames, and what is known about each of them.

    Attributes:
        inputs: Arrays [N, ...] by the input's name: real values as float32 for float and quantized inputs, the input's
            own dtype for integers without a scale.
        y: Truth: int64 [N] for classes, float32 [N, ...] for regression, 0 or 1 for anomalies; None when there is none.
        slices: Groupings by name, [N] of str or int64.
        raw: Raw frames [N, ...] of those inputs whose values were made of such, by the input's name.
    """

    inputs: Mapping[str, Array]
    y: Array | None = None
    slices: Mapping[str, Array] = field(default_factory=dict)
    raw: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()), ()))

    def rows(self, which: slice | NDArray[np.intp]) -> "DataSet":
        """Return some of the frames, with their truth and groupings."""
        return DataSet(
            {name: values[which] for name, values in self.inputs.items()},
            None if self.y is None else self.y[which],
            {name: values[which] for name, values in self.slices.items()},
            {name: values[which] for name, values in self.raw.items()},
        )


def input_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """Return the dtype in which data for an input is given: float32 for real values, its own for plain integers."""
    return np.dtype(np.float32) if spec.scale or spec.datatype in ("FP32", "FP16") else _OWN_DTYPES[spec.datatype]


@dataclass(frozen=True)
class Sensing:
    """What a data file may hold besides real values.

    Attributes:
        sections: How raw frames become an input, by the input's name.
        said: Which form the files hold, where type and shape do not tell: ``real``, ``raw`` or nothing.
    """

    sections: Mapping[str, Preprocessing] = field(default_factory=dict)
    said: str = ""

    def is_raw(self, array: Announced | Array, spec: TensorSpec, what: str) -> bool:
        """Return whether an array holds raw frames; the same rule as for a request on a device.

        Raises:
            InvalidInput: It holds neither raw frames nor real values.
        """
        section = self.sections.get(spec.name)
        if section is None or not section.raw or not array.shape:
            return False
        accepted = [one for one in accepted_forms(spec, section) if one.form is not Form.STORED]
        datatype = _DATATYPES.get(array.dtype, str(array.dtype))
        try:
            return form_of(spec.name, accepted, datatype, array.shape[1:], self.said) is Form.RAW
        except InvalidInput as error:
            raise InvalidInput(f"array {what} fits no form of its input", why=str(error)) from error


REAL_ONLY = Sensing()


def read_data(
    path: Path, specs: Sequence[TensorSpec], what: str, *, needs_truth: bool, sensing: Sensing = REAL_ONLY
) -> DataSet:
    """Read a data file. Nothing in it is executed, and no more is read than the arrays that are used.

    Args:
        path: An ``.npz`` file.
        specs: The model's inputs.
        what: What the data is for, for the error's text, such as "the calibration data".
        needs_truth: Refuse a file without ``y``.
        sensing: What it may hold besides real values.

    Raises:
        InvalidInput: The file cannot be read, or an array (the text names it) is missing or not as the model wants it.
    """
    where = f"{what} in {path.name}"
    with open_npz(path, what) as archive:
        named = {spec.name: _array_name(spec, len(specs), archive.names) for spec in specs}
        slices = [name for name in archive.names if name.startswith(SLICE_PREFIX)]
        wanted = [*named.values(), *([TRUTH] if needs_truth or TRUTH in archive.names else []), *slices]
        announced = {name: archive.announced(name) for name in wanted}
        raw = _raw_inputs(announced, named, specs, where, sensing)
        _check_announced(announced, named, [spec for spec in specs if spec not in raw], where)
        arrays = archive.read(wanted)
    frames = {spec.name: arrays[named[spec.name]] for spec in raw}
    made = {spec.name: prepare(sensing.sections[spec.name], spec, frames[spec.name]) for spec in raw}
    inputs = {name: arrays[array] for name, array in named.items()} | made
    check_inputs(inputs, specs, where, shown=named)
    return DataSet(
        inputs,
        _truth(arrays[TRUTH], f"{TRUTH!r} of {where}") if TRUTH in arrays else None,
        {name.removeprefix(SLICE_PREFIX): _grouping(arrays[name], f"{name!r} of {where}") for name in slices},
        frames,
    )


def _raw_inputs(
    arrays: Mapping[str, Announced],
    named: Mapping[str, str],
    specs: Sequence[TensorSpec],
    where: str,
    sensing: Sensing,
) -> list[TensorSpec]:
    """Return the inputs whose arrays hold raw frames."""
    return [
        spec for spec in specs if sensing.is_raw(arrays[named[spec.name]], spec, f"{named[spec.name]!r} of {where}")
    ]


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
        array = f"{(shown or {}).get(spec.name, spec.name)!r} of {what}"
        _check_form(inputs[spec.name], spec, array)
        _refuse_not_finite(inputs[spec.name], array)
    counts = {len(values) for values in inputs.values()}
    if len(counts) > 1:
        listed = ", ".join(f"{name}: {len(values)}" for name, values in inputs.items())
        raise InvalidInput(f"the arrays of {what} have different numbers of frames", why=listed)


def _check_announced(
    arrays: Mapping[str, Announced], named: Mapping[str, str], specs: Sequence[TensorSpec], where: str
) -> None:
    """Check arrays by their headers alone, for a small file can unpack into gigabytes.

    Args:
        arrays: By the array's name.
        named: The array's name of each input.
        specs: The model's inputs.
        where: The data and its file, for the error's text.
    """
    for spec in specs:
        _check_form(arrays[named[spec.name]], spec, f"{named[spec.name]!r} of {where}")
    count = next(iter(arrays[array] for array in named.values())).shape[0]
    for name, array in arrays.items():
        what = f"array {name!r} of {where}"
        if name == TRUTH and array.shape[:1] != (count,):
            raise InvalidInput(f"{what} has shape {list(array.shape)}", why=f"there are {count} frames")
        if name.startswith(SLICE_PREFIX) and not _is_grouping(array, count):
            why = f"whole numbers or texts of {MAX_SLICE_LABEL} characters at most [{count}] are needed"
            raise InvalidInput(f"{what} is {array.dtype} {list(array.shape)}", why=why)


def _is_grouping(array: Announced, count: int) -> bool:
    is_short = array.dtype.kind in "biu" or (
        array.dtype.kind == "U" and array.dtype.itemsize <= MAX_SLICE_LABEL * _CHARACTER_BYTES
    )
    return array.shape == (count,) and is_short


def _check_form(array: Announced | Array, spec: TensorSpec, what: str) -> None:
    dtype = input_dtype(spec)
    if array.dtype != dtype:
        hint = f"convert it: values.astype('{dtype}')"
        raise InvalidInput(f"array {what} is {array.dtype}", why=f"{dtype} is needed", hint=hint)
    if not array.shape or array.shape[0] == 0:
        raise InvalidInput(f"array {what} has shape {list(array.shape)}", why="frames are needed, one a row")
    if array.shape[1:] != spec.shape[1:]:
        raise InvalidInput(
            f"array {what} has frames of shape {list(array.shape[1:])}",
            why=f"the model's input is {list(spec.shape[1:])}",
        )


def _refuse_not_finite(values: Array, what: str) -> None:
    if values.dtype.kind != "f" or not values.size:
        return
    rows = max(1, _CHECKED_VALUES * len(values) // values.size)
    for start in range(0, len(values), rows):
        finite = np.isfinite(values[start : start + rows])
        if not finite.all():
            row = start + int(np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1))[0])
            raise InvalidInput(f"array {what} holds NaN or infinite values", why=f"the first is in frame {row}")


def _array_name(spec: TensorSpec, inputs_count: int, names: Sequence[str]) -> str:
    return ONLY_INPUT if inputs_count == 1 and spec.name not in names else spec.name


def _truth(y: Array, what: str) -> Array:
    _refuse_not_finite(y, what)
    if y.dtype.kind == "f":
        return _as_float32(y, what)
    return _as_int64(y, what) if y.dtype.kind in "biu" else y


def _grouping(values: Array, what: str) -> Array:
    return values if values.dtype.kind == "U" else _as_int64(values, what)


def _as_float32(values: Array, what: str) -> Array:
    largest = np.finfo(np.float32).max
    if values.dtype.itemsize > largest.itemsize and values.size and (np.abs(values) > largest).any():
        raise InvalidInput(f"array {what} holds values that do not fit float32", why=f"the largest is {largest:.3g}")
    return values.astype(np.float32)


def _as_int64(values: Array, what: str) -> Array:
    largest = np.iinfo(np.int64).max
    if values.dtype.kind == "u" and values.size and int(values.max()) > largest:
        raise InvalidInput(f"array {what} holds {values.max()}", why=f"the largest whole number is {largest}")
    return values.astype(np.int64)
