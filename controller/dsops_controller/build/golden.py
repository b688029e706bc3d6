"""Chooses golden inputs, and checks a model against them.

A frame is taken only when every kind of kernel gives it the same answer with room to spare; int8 kernels round
differently, and what differs between two may differ more on a third. A quarter of the frames are those with the least
room: a fault in the preprocessing or in a kernel shows on these first. The others cover what the model sees: each is
the one that is least like those taken before (farthest-point traversal; Gonzalez 1985, Theoretical Computer Science
38).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsops.decision import Decision
from dsops.errors import GoldenMismatch, InvalidInput, InvalidModel
from dsops.forms import Form, accepted_forms, form_of
from dsops.golden import ITEM_BYTES, MAX_GOLDEN, MAX_GOLDEN_BYTES, GoldenDtype, GoldenSet, TensorBytes
from dsops.golden_compare import Answers, find_differences
from dsops.manifest import Preprocessing, Task, TensorSpec
from dsops.preprocess import prepare
from dsops_controller.build.data import Array, DataSet
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.profile import measure_frames
from dsops_controller.build.runs import Runs

DATA = "the golden data"
_MISFIT = "the golden inputs do not have the form of the payload's inputs and outputs"
COUNT = 32
CANDIDATES = 4
"""Frames that are tried with every kind of kernel, for each golden input."""
CLOSE_SHARE = 0.25
_SEED = 20260101
_SPREADS = 3.0
"""A measured tolerance is so many times the difference between the kernels of this machine that nine frames in ten do
not exceed; those on which the kernels differ more are not taken."""
_FRAMES = 0.9
_STEPS = 4.0
"""And at least so many steps of a quantized output."""
_RELATIVE = 1e-4
"""And at least this share of the output's range; processors sum floats in different orders."""

Tolerances = float | Mapping[str, float] | None
"""One for all outputs, one by the output's name, or measured."""
_Rows = NDArray[np.intp]


@dataclass(frozen=True)
class _Candidates:
    """Frames that might be golden, what two kinds of kernels answer to them, and what that means."""

    data: DataSet
    fast: Mapping[str, Array]
    plain: Mapping[str, Array]
    decision: Decision
    plain_decision: Decision


def choose_golden(
    model: bytes | Runs, data: DataSet, meaning: Meaning, count: int = COUNT, tolerance: Tolerances = None
) -> GoldenSet:
    """Choose ``count`` frames of held-out data, and how far an answer may be off.

    The choice depends on nothing but the arguments. Every frame is answered by the fast kernels, and of each frame that
    is taken for a golden input 4 are answered by the plain ones, which are slow: those with the least room, and others
    drawn at random.

    Raises:
        InvalidInput: The data does not fit the model, or too few frames are answered rightly and clearly enough.
        InvalidModel: The model cannot be run, or is not what is meant.
    """
    runs = model if isinstance(model, Runs) else Runs(model)
    runner = runs.model
    meaning.check(runner)
    if not 1 <= count <= MAX_GOLDEN:
        raise InvalidInput(f"{count} golden inputs were asked for", why=f"1 to {MAX_GOLDEN} are possible")
    _check_size(runner, data, count)
    _check_truth(data, meaning)
    found = _candidates(runs, data, meaning, count)
    allowed = _tolerances(runner, found, tolerance)
    rows = _choose_rows(runner, found, meaning, allowed, count)
    chosen, names = found.data.rows(rows), [spec.name for spec in runner.inputs]
    return GoldenSet(
        inputs=tuple(_tensor(name, (chosen.raw if name in data.raw else chosen.inputs)[name]) for name in names),
        outputs=tuple(_tensor(spec.name, found.fast[spec.name][rows]) for spec in runner.outputs),
        tolerances=tuple(allowed[spec.name] for spec in runner.outputs),
        labels=_label_names(chosen, meaning),
        raw=tuple(name for name in names if name in data.raw),
    )


def check_golden(model: bytes, golden: GoldenSet, meaning: Meaning) -> None:
    """Run a model on golden inputs, with the fast and with the plain kernels.

    Raises:
        GoldenMismatch: A label is unknown, an answer is not the frame's label, or an output is off by more than its
            tolerance.
        InvalidModel: The model cannot be run.
    """
    unknown = sorted(set(golden.labels) - set(meaning.labels))
    if unknown:
        raise GoldenMismatch(f"golden inputs carry the label {unknown[0]!r}", why="the bundle's labels do not hold it")
    expected = [array_of(tensor) for tensor in golden.outputs]
    for reference_kernels in (False, True):
        runner = LitertModel(model, reference_kernels=reference_kernels)
        inputs = _real_inputs(runner.inputs, golden, meaning)
        if not _fit(runner.outputs, golden.outputs):
            raise GoldenMismatch(_MISFIT)
        got = runner.run({spec.name: values for spec, values in zip(runner.inputs, inputs, strict=True)})
        answers = Answers(inputs, expected, [got[spec.name] for spec in runner.outputs])
        differences = find_differences(golden, meaning.task, meaning.rule, meaning.labels, answers)
        if differences:
            raise GoldenMismatch(
                f"{len(differences)} of {len(golden)} golden inputs are not answered as expected",
                why=differences[0].text,
                row=differences[0].row,
            )


def _real_inputs(specs: Sequence[TensorSpec], golden: GoldenSet, meaning: Meaning) -> list[Array]:
    """Return golden inputs as the model takes them."""
    sections = {section.input: section for section in meaning.sections if section.raw}
    found = []
    if len(specs) != len(golden.inputs):
        raise GoldenMismatch(_MISFIT)
    for spec, tensor in zip(specs, golden.inputs, strict=True):
        values, section = array_of(tensor), sections.get(spec.name)
        if tensor.name in golden.raw and section is not None:
            values = _prepared(section, spec, values)
        elif tensor.name in golden.raw or not _fit([spec], [tensor]):
            raise GoldenMismatch(_MISFIT)
        found.append(values)
    return found


def _prepared(section: Preprocessing, spec: TensorSpec, values: Array) -> Array:
    try:
        form_of(spec.name, accepted_forms(spec, section), section.raw, values.shape[1:], Form.RAW)
    except InvalidInput as error:
        raise GoldenMismatch(_MISFIT, why=str(error)) from error
    return prepare(section, spec, values)


def array_of(tensor: TensorBytes) -> Array:
    """Return a golden tensor as an array."""
    dtype = np.dtype(tensor.dtype)
    return np.frombuffer(tensor.data, dtype.newbyteorder("<")).reshape(tensor.shape).astype(dtype)


def _candidates(runs: Runs, data: DataSet, meaning: Meaning, count: int) -> _Candidates:
    """Return the frames that are answered rightly by the fast kernels and are tried with the plain ones."""
    fast = runs.all(data)
    decision = meaning.decide(runs.model, data.inputs, fast)
    right = np.flatnonzero(_is_right(decision.choices, data, meaning))
    _require_enough(right, count)
    room = _room(meaning, decision, fast[runs.model.outputs[0].name], 0.0)
    drawn = np.random.default_rng(_SEED).permutation(right)
    close = right[np.argsort(room[right], kind="stable")][:count]
    rows = np.sort(np.concatenate([close, np.setdiff1d(drawn, close, assume_unique=True)[: (CANDIDATES - 1) * count]]))
    few = data.rows(rows)
    plain = LitertModel(runs.payload, reference_kernels=True).run(few.inputs)
    kept = {name: values[rows] for name, values in fast.items()}
    return _Candidates(
        few, kept, plain, meaning.decide(runs.model, few.inputs, kept), meaning.decide(runs.model, few.inputs, plain)
    )


def _tolerances(runner: LitertModel, found: _Candidates, given: Tolerances) -> dict[str, float]:
    names = [spec.name for spec in runner.outputs]
    if isinstance(given, float | int):
        return dict.fromkeys(names, float(given))
    unknown = sorted(set(given or {}) - set(names))
    if unknown:
        raise InvalidInput(f"a tolerance names the output {unknown[0]!r}", why=f"there are {', '.join(names)}")
    measured = {spec.name: _measured_tolerance(spec, found) for spec in runner.outputs}
    return measured | {name: float(value) for name, value in (given or {}).items()}


def _measured_tolerance(spec: TensorSpec, found: _Candidates) -> float:
    """Return a tolerance that holds for this machine's kernels with room to spare, to two significant digits."""
    values = found.fast[spec.name].astype(np.float64)
    differences = np.abs(values - found.plain[spec.name]).reshape(len(values), -1).max(axis=1)
    spread = float(np.quantile(differences, _FRAMES, method="higher"))
    extent = float(values.max() - values.min()) or float(np.abs(values).max())
    return float(f"{max(_SPREADS * spread, _STEPS * spec.scale, _RELATIVE * extent, 1e-6):.2g}")


def _choose_rows(
    runner: LitertModel, found: _Candidates, meaning: Meaning, allowed: Mapping[str, float], count: int
) -> _Rows:
    first = runner.outputs[0].name
    room = _room(meaning, found.decision, found.fast[first], allowed[first])
    same = _is_right(found.plain_decision.choices, found.data, meaning, like=found.decision.choices)
    fit = np.flatnonzero(_agreed(found, allowed) & same & (room > 0))
    _require_enough(fit, count)
    close = (
        fit[np.argsort(room[fit], kind="stable")][: int(count * CLOSE_SHARE)] if np.isfinite(room).any() else fit[:0]
    )
    rest = np.setdiff1d(fit, close)
    outputs = {name: values[fit] for name, values in found.fast.items()}
    features = _features(runner, found.data.rows(fit), outputs, meaning)
    order = _farthest_first(features, np.searchsorted(fit, close), np.searchsorted(fit, rest), count - len(close))
    return np.concatenate([close, fit[order]])


def _require_enough(rows: _Rows, count: int) -> None:
    if len(rows) < count:
        raise InvalidInput(
            f"{len(rows)} frames of {DATA} can be golden inputs, and {count} are needed",
            why="a golden input is answered rightly, and clearly enough for every kind of kernel",
            hint="give more held-out frames, ask for fewer golden inputs, or set golden.tolerance",
        )


def _agreed(found: _Candidates, allowed: Mapping[str, float]) -> NDArray[np.bool_]:
    """Say for each frame whether both kinds of kernels agree on it to half the tolerance."""
    agreed = np.ones(len(found.data), np.bool_)
    for name, values in found.fast.items():
        difference = np.abs(values.astype(np.float64) - found.plain[name]).reshape(len(values), -1).max(axis=1)
        agreed &= difference <= allowed[name] / 2
    return agreed


def _is_right(choices: Array | None, data: DataSet, meaning: Meaning, like: Array | None = None) -> NDArray[np.bool_]:
    """Say for each frame whether it is taken for what it is, and, when that is given, for the same as ``like``.

    What is not judged is never wrong.
    """
    if choices is None:
        return np.ones(len(data), np.bool_)
    is_known = meaning.task is Task.CLASSIFICATION and data.y is not None
    right: NDArray[np.bool_] = choices == (data.y if is_known else choices)
    return right if like is None else right & (choices == like)


def _room(meaning: Meaning, decision: Decision, output: Array, tolerance: float) -> NDArray[np.float64]:
    """Return how far each frame is from another answer, beyond what the tolerance may move it; infinite when unjudged.

    While every output is within the tolerance, no device can then take the frame for something else. Without a
    threshold that is measured on the output itself, whose order softmax and sigmoid keep; with one on the score, which
    they move by no more than their input moves.
    """
    scores, threshold = decision.scores, meaning.rule.threshold
    if scores is None or decision.choices is None:
        return np.full(len(output), np.inf)
    if meaning.task is Task.RECONSTRUCTION:
        slack = tolerance if meaning.rule.error == "mean_absolute" else 2 * np.sqrt(scores) * tolerance + tolerance**2
        return np.asarray(np.abs(scores - threshold) - slack, np.float64)
    flat = output.reshape(len(output), -1)
    if flat.shape[1] == 1 or (threshold is not None and flat.shape[1] == 2):
        middle = 0.5 if threshold is None else threshold
        return np.asarray(np.abs(scores[:, 1] - middle) - tolerance, np.float64)
    ordered = np.sort(flat.astype(np.float64), axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2] - 2 * tolerance, np.float64)


def _features(
    runner: LitertModel, data: DataSet, outputs: Mapping[str, Array], meaning: Meaning
) -> NDArray[np.float64]:
    """Return what frames are told apart by: their signals, standardized, and their class."""
    measured = measure_frames(runner, data, outputs, meaning)
    table = np.column_stack([values for name, values in measured.items() if name != "predicted_class"])
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    if "predicted_class" in measured:
        classes = np.array(measured["predicted_class"])
        one_hot = (classes[:, None] == np.unique(classes)[None]).astype(np.float64)
        table = np.concatenate([table, one_hot * np.sqrt(table.shape[1])], axis=1)
    return table


def _farthest_first(features: NDArray[np.float64], taken: _Rows, free: _Rows, count: int) -> _Rows:
    """Return ``count`` rows of ``free``: first the most ordinary one when none is taken yet, then the farthest each."""
    distance = np.full(len(features), np.inf)
    for row in taken:
        distance = np.minimum(distance, np.linalg.norm(features - features[row], axis=1))
    chosen: list[int] = []
    for _ in range(count):
        left = np.setdiff1d(free, chosen)
        ordinary = np.linalg.norm(features[left], axis=1).argmin()
        row = int(left[distance[left].argmax()] if len(taken) or chosen else left[ordinary])
        chosen.append(row)
        distance = np.minimum(distance, np.linalg.norm(features - features[row], axis=1))
    return np.array(chosen, np.intp)


def _check_size(runner: LitertModel, data: DataSet, count: int) -> None:
    tensors = [spec for spec in (*runner.inputs, *runner.outputs) if spec.name not in data.raw]
    size_bytes = count * sum(int(np.prod(spec.shape)) * ITEM_BYTES[_dtype(spec)] for spec in tensors)
    size_bytes += count * sum(values[:1].nbytes for values in data.raw.values())
    if size_bytes > MAX_GOLDEN_BYTES:
        raise InvalidInput(
            f"{count} golden inputs have {size_bytes} bytes",
            why=f"{MAX_GOLDEN_BYTES} are allowed",
            hint="ask for fewer golden inputs",
        )


def _check_truth(data: DataSet, meaning: Meaning) -> None:
    if meaning.task is not Task.CLASSIFICATION or data.y is None or not meaning.labels:
        return
    outside = np.flatnonzero((data.y < 0) | (data.y >= len(meaning.labels)))
    if len(outside):
        row = outside[0]
        raise InvalidInput(
            f"{DATA} has label {data.y[row]} in row {row}", why=f"labels are 0 to {len(meaning.labels) - 1}"
        )


def _label_names(data: DataSet, meaning: Meaning) -> tuple[str, ...]:
    if meaning.task is not Task.CLASSIFICATION or not meaning.labels or data.y is None:
        return ()
    return tuple(meaning.labels[int(label)] for label in data.y)


def _fit(specs: Sequence[TensorSpec], tensors: Sequence[TensorBytes]) -> bool:
    told = [(tensor.name, tensor.shape[1:], tensor.dtype) for tensor in tensors]
    return told == [(spec.name, spec.shape[1:], _dtype(spec)) for spec in specs]


def _dtype(spec: TensorSpec) -> GoldenDtype:
    if spec.scale or spec.datatype in ("FP32", "FP16"):
        return "float32"
    plain: dict[str, GoldenDtype] = {"INT32": "int32", "INT64": "int64", "BOOL": "bool"}
    if spec.datatype not in plain:
        raise InvalidModel(f"tensor {spec.name!r} is {spec.datatype} without a scale", why="its values have no meaning")
    return plain[spec.datatype]


def _tensor(name: str, values: Array) -> TensorBytes:
    dtypes: dict[np.dtype[np.generic], GoldenDtype] = {np.dtype(known): known for known in ITEM_BYTES}
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return TensorBytes(name, dtypes[values.dtype], values.shape, data)
