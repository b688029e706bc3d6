"""Compares what a model answers to golden inputs with what is expected: the same rule at the build and on the device.

The arrays come from the caller; this module uses nothing but their own methods and operators.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from dsops.decision import Decision, decide
from dsops.golden import GoldenSet
from dsops.manifest import Postprocessing, Task

Array: TypeAlias = Any
"""A NumPy array, or what has its methods; naming the type would import the package."""


@dataclass(frozen=True)
class Difference:
    """One golden input that is not answered as expected."""

    row: int
    text: str


@dataclass(frozen=True)
class Answers:
    """Real inputs of ``n`` golden frames, the outputs that are expected, and those that came; each [n, ...]."""

    inputs: Sequence[Array]
    expected: Sequence[Array]
    got: Sequence[Array]


def find_differences(
    golden: GoldenSet, task: Task, rule: Postprocessing, labels: Sequence[str], answers: Answers, first_row: int = 0
) -> tuple[Difference, ...]:
    """Return the golden inputs that are not answered as expected, by row.

    What a frame is taken for is compared first: a classification gives the frame's label, a judged reconstruction the
    expected judgement. Then every value of every output, within the output's tolerance; NaN is within none.

    Args:
        golden: What is expected.
        task: What the first output means.
        rule: How it is read.
        labels: The bundle's labels; without them only values are compared.
        answers: Golden tensors as arrays, and what the model answered; some rows of the set or all.
        first_row: Number of the first of these rows within the set.
    """
    wrong = _wrong_choices(golden.labels[first_row:], task, rule, labels, answers)
    for number, (expected, got) in enumerate(zip(answers.expected, answers.got, strict=True)):
        name, allowed = golden.outputs[number].name, golden.tolerances[number]
        for row, distance in enumerate(distances(expected, got)):
            if not distance <= allowed:  # so that NaN differs
                wrong.setdefault(row, f"output {name!r} is off by {distance:.4g}, {allowed:.4g} is allowed")
    return tuple(Difference(first_row + row, f"input {first_row + row}: {wrong[row]}") for row in sorted(wrong))


def _wrong_choices(
    true_labels: Sequence[str], task: Task, rule: Postprocessing, labels: Sequence[str], answers: Answers
) -> dict[int, str]:
    chosen = _choices(decide(task, rule, answers.inputs, answers.got))
    if task is Task.RECONSTRUCTION:
        wanted = _choices(decide(task, rule, answers.inputs, answers.expected))
        names: Sequence[str] = ("no anomaly", "an anomaly")
        pairs = [(names[got], names[want]) for got, want in zip(chosen, wanted, strict=True)]
    else:
        has_labels = bool(labels and true_labels)
        pairs = [(labels[got], want) for got, want in zip(chosen, true_labels, strict=False)] if has_labels else []
    return {row: f"taken for {got!r}, expected {want!r}" for row, (got, want) in enumerate(pairs) if got != want}


def _choices(decision: Decision) -> list[int]:
    return [] if decision.choices is None else [int(choice) for choice in decision.choices.tolist()]


def distances(expected: Array, got: Array) -> list[float]:
    """Return the largest difference of any value of each row; unequal whole numbers never have a distance of 0."""
    rows = len(expected)
    difference = abs(got.reshape(rows, -1).astype("f8") - expected.reshape(rows, -1).astype("f8"))
    difference[(difference == 0.0) & (got != expected).reshape(rows, -1)] = 1.0  # integers beyond 2^53
    distances: list[float] = difference.max(axis=1).tolist()
    return distances
