"""Checks a served model against the golden inputs of its bundle."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsops.errors import GoldenMismatch, InvalidInput
from dsops.golden import TensorBytes
from dsops.manifest import Task, TensorSpec
from dsops_agent.runtime.answer import Answer, named_choice
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.litert import Array, TensorDetails

_DTYPES = {"float32": "<f4", "int32": "<i4", "int64": "<i8", "bool": "?"}


@dataclass(frozen=True)
class Difference:
    """One golden input that is not answered as expected."""

    row: int
    text: str


def check_golden(served: ServedModel) -> tuple[float, ...]:
    """Ask every golden input; return the time of each in the interpreter, in microseconds.

    An answer is right when every value of every output lies within the output's tolerance, and what it means is right:
    the label of a classification is the golden one, a reconstruction is an anomaly when the expected one is.

    Raises:
        GoldenMismatch: One is not; it tells how many and the first.
        InvalidModel: The interpreter fails.
    """
    golden, manifest = served.golden, served.manifest
    given = _inputs(golden.inputs, manifest.inputs, served.loaded.inputs)
    expected = _expected(golden.outputs, manifest.outputs)
    latency_us: list[float] = []
    differences: list[Difference] = []
    for start in range(0, len(golden), served.max_frames):
        rows = slice(start, start + served.max_frames)
        part = {name: frames[rows] for name, frames in given.items()}
        answer = _ask(served, part)
        latency_us += answer.latency_us
        wanted = tuple(output[rows] for output in expected)
        differences += find_differences(served, part, answer, wanted, first_row=start)
    if differences:
        raise GoldenMismatch(
            f"{len(differences)} of {len(golden)} golden inputs are not answered as expected",
            why=differences[0].text,
            differing=len(differences),
            of=len(golden),
        )
    return tuple(latency_us)


def find_differences(
    served: ServedModel, inputs: Mapping[str, Array], answer: Answer, expected: tuple[Array, ...], first_row: int = 0
) -> list[Difference]:
    """Compare answers with what is expected: what they mean, then each output within its tolerance.

    Args:
        served: The model; its golden set has the labels and the tolerances.
        inputs: What was asked, [N, ...].
        answer: What was answered.
        expected: Expected outputs, each [N, ...].
        first_row: Number of the first of the rows within the golden set.
    """
    found = [
        Difference(first_row + row, f"input {first_row + row}: {said!r}, expected {right!r}")
        for row, (said, right) in enumerate(_meanings(served, inputs, answer, expected, first_row))
        if said != right
    ]
    told = {difference.row - first_row for difference in found}
    for position, (got, right) in enumerate(zip(answer.outputs, expected, strict=True)):
        off, most = distances(got, right), served.golden.tolerances[position]
        for row in np.flatnonzero(~(off <= most)).tolist():  # so that NaN differs
            if row not in told:
                told.add(row)
                name = served.manifest.outputs[position].name
                text = f"input {first_row + row}: output {name!r} is off by {off[row]:.4f}, {most:.4f} is allowed"
                found.append(Difference(first_row + row, text))
    return sorted(found, key=lambda difference: difference.row)


def distances(got: Array, expected: Array) -> NDArray[np.float64]:
    """Return the largest difference of any value of each row, [N]; that of unequal integers is never 0."""
    off = np.abs(got.astype(np.float64) - expected)
    off[(off == 0.0) & (got != expected)] = 1.0  # integers beyond 2^53
    largest: NDArray[np.float64] = off.reshape(len(off), -1).max(axis=1)
    return largest


def array_of(tensor: TensorBytes) -> Array:
    """Return a golden tensor as an array."""
    values = np.frombuffer(tensor.data, _DTYPES[tensor.dtype]).reshape(tensor.shape)
    return values.astype(values.dtype.newbyteorder("="))


def _ask(served: ServedModel, inputs: Mapping[str, Array]) -> Answer:
    try:
        return served.infer(inputs)
    except InvalidInput as error:
        raise GoldenMismatch("the golden inputs do not fit the payload", why=str(error)) from error


def _inputs(
    tensors: tuple[TensorBytes, ...], specs: tuple[TensorSpec, ...], details: tuple[TensorDetails, ...]
) -> dict[str, Array]:
    own = {spec.name: detail.dtype for spec, detail in zip(specs, details, strict=True) if not detail.is_real}
    return {tensor.name: _as_stored(array_of(tensor), own.get(tensor.name)) for tensor in tensors}


def _as_stored(values: Array, dtype: np.dtype[np.generic] | None) -> Array:
    """Return values for a tensor of plain integers in its type, if it holds them; all others as they are."""
    if dtype is None or values.dtype == dtype:
        return values
    stored = values.astype(dtype)
    return stored if np.array_equal(stored, values) else values


def _expected(tensors: tuple[TensorBytes, ...], specs: tuple[TensorSpec, ...]) -> tuple[Array, ...]:
    told = [(tensor.name, tensor.shape[1:]) for tensor in tensors]
    wanted = [(spec.name, spec.shape[1:]) for spec in specs]
    if told != wanted:
        texts = [", ".join(f"{name!r} {list(shape)}" for name, shape in form) for form in (wanted, told)]
        raise GoldenMismatch(f"the payload gives {texts[0]}", why=f"the golden outputs are {texts[1]}")
    return tuple(array_of(tensor) for tensor in tensors)


def _meanings(
    served: ServedModel, inputs: Mapping[str, Array], answer: Answer, expected: tuple[Array, ...], first_row: int
) -> list[tuple[str, str]]:
    """Return what each answer means, and what it should mean; nothing when answers have no meaning that is known."""
    manifest = served.manifest
    if answer.decision.choices is None:
        return []
    said = [named_choice(manifest, choice) for choice in answer.choices.tolist()]
    if manifest.task is Task.RECONSTRUCTION:
        right = served.decide(inputs[manifest.inputs[0].name], expected)
        choices = [named_choice(manifest, choice) for choice in np.asarray(right.choices).tolist()]
        return list(zip(said, choices, strict=True))
    labels = served.golden.labels[first_row : first_row + len(said)] if manifest.labels else ()
    return list(zip(said, labels, strict=True)) if labels else []
