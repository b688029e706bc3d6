"""Checks a served model against the golden inputs of its bundle."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsops.errors import GoldenMismatch, InvalidInput
from dsops.golden import GoldenSet, TensorBytes
from dsops_agent.runtime.engine import ServedModel


@dataclass(frozen=True)
class Difference:
    """One golden input that is not answered as expected."""

    row: int
    text: str


def check_golden(served: ServedModel) -> tuple[float, ...]:
    """Ask every golden input; return the time of each in the interpreter, in microseconds.

    Raises:
        GoldenMismatch: A label differs, or a score lies outside the tolerance; it tells how many and the first.
        InvalidModel: The interpreter fails.
    """
    golden = served.golden
    try:
        answer = served.infer(array_of(golden.inputs))
    except InvalidInput as error:
        raise GoldenMismatch("the golden inputs do not fit the payload", why=str(error)) from error
    expected = array_of(golden.scores)
    if answer.scores.shape != expected.shape:
        raise GoldenMismatch(
            f"the payload gives scores {list(answer.scores.shape)}", why=f"expected {list(expected.shape)}"
        )
    names = [served.label_of(int(index)) for index in answer.labels]
    differences = find_differences(golden, names, answer.scores, has_labels=bool(served.manifest.labels))
    if differences:
        raise GoldenMismatch(
            f"{len(differences)} of {len(golden.labels)} golden inputs are not answered as expected",
            why=differences[0].text,
            differing=len(differences),
            of=len(golden.labels),
        )
    return answer.latency_us


def find_differences(
    golden: GoldenSet, names: list[str], scores: NDArray[np.float32], *, has_labels: bool
) -> list[Difference]:
    """Compare answers with what is expected: labels by name, then scores within the set's tolerance.

    Args:
        golden: What is expected.
        names: The label that each row was given.
        scores: The scores that each row was given, [N, C].
        has_labels: Whether the bundle names its labels; without names only scores are compared.
    """
    distance = np.abs(scores - array_of(golden.scores)).max(axis=1)
    found = []
    for row, (name, label) in enumerate(zip(names, golden.labels, strict=True)):
        if has_labels and name != label:
            found.append(Difference(row, f"input {row}: label {name!r}, expected {label!r}"))
        elif not distance[row] <= golden.score_tolerance:  # so that NaN differs
            text = f"input {row}: a score is off by {distance[row]:.4f}, {golden.score_tolerance:.4f} is allowed"
            found.append(Difference(row, text))
    return found


def array_of(tensor: TensorBytes) -> NDArray[np.float32]:
    """Return a golden tensor as an array."""
    return np.frombuffer(tensor.data, "<f4").reshape(tensor.shape).astype(np.float32)
