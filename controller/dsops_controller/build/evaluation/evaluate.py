"""Compares a variant with its float model on the evaluation data.

Both models see the same frames, a chunk at a time; what is kept of each frame is small, so that large sets fit into
memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from dsops.errors import InvalidInput, InvalidModel
from dsops.manifest import TensorSpec
from dsops_controller.build.data import Array, DataSet
from dsops_controller.build.evaluation import metrics
from dsops_controller.build.evaluation.answers import (
    Answers,
    Question,
    answer,
    better,
    check_question,
    check_truth,
    class_names,
    figures_of,
    join,
    reliability_of,
)
from dsops_controller.build.evaluation.evaluation import (
    WHOLE_MATRIX,
    ClassFigures,
    ClassRow,
    Confusion,
    Evaluation,
    Figure,
    Matrix,
    Measured,
    Reliability,
    SliceRow,
)
from dsops_controller.build.evaluation.measure_model import STANDARD, Measuring, measure_model
from dsops_controller.build.evaluation.operators import ModelCost, cost_of
from dsops_controller.build.progress import Progress, silent
from dsops_controller.build.runs import Runs

CHUNK_BYTES = 16 << 20
CHUNK_FRAMES = 256
CUSTOM_BYTES = 256 << 20
"""A custom metric is given all outputs at once, and both models' are held; larger ones are refused."""
MAX_SLICE_VALUES = 1000
FLOAT = "the float model"
VARIANT = "the variant"

Outputs = Mapping[str, Array]
Pair = tuple[Answers, Answers]


class Evaluator:
    """A float model and its evaluation data, with which variants are compared.

    What is known of a model after one comparison is kept for the next, within limits.

    Args:
        float_model: The float TFLite model.
        data: Held-out frames, with their truth where it is known.
        question: What is asked and how answers are judged.
        measuring: What to measure on this machine; None to measure nothing.

    Raises:
        InvalidInput: The data does not fit the model, its task or its labels, or there is none.
        InvalidModel: The model cannot be loaded, or does not fit its task or its labels.
    """

    def __init__(
        self, float_model: bytes | Runs, data: DataSet, question: Question, measuring: Measuring | None = STANDARD
    ) -> None:
        self._data, self._question, self._measuring = data, question, measuring
        self._float = float_model if isinstance(float_model, Runs) else Runs(float_model)
        self._bytes, self._model = self._float.payload, self._float.model
        check_question(question, self._model.inputs, self._model.outputs)
        check_truth(question, data, self._model.outputs[0])
        for name, values in data.slices.items():
            if len(np.unique(values)) > MAX_SLICE_VALUES:
                raise InvalidInput(
                    f"slice {name!r} of the evaluation data has more than {MAX_SLICE_VALUES} values",
                    why="a slice groups the frames",
                )
        self._check_custom()

    def evaluate(self, variant_model: bytes | Runs, progress: Progress = silent) -> Evaluation:
        """Run a variant on every frame, and the float model where its outputs are not known yet.

        Args:
            variant_model: A TFLite model with the same inputs and outputs.
            progress: Advanced once a frame; the caller begins the step.

        Raises:
            InvalidInput: A custom metric fails.
            InvalidModel: A model cannot be run, answers with NaN or infinite values, or the variant's inputs and
                outputs are others.
        """
        variant = variant_model if isinstance(variant_model, Runs) else Runs(variant_model)
        _check_same(self._model.inputs, variant.model.inputs, "inputs")
        _check_same(self._model.outputs, variant.model.outputs, "outputs")
        sums = {spec.name: metrics.DifferenceSums(spec.name) for spec in self._model.outputs}
        parts: list[Pair] = []
        for start, chunk in self._chunks():
            stop = start + len(chunk)
            expected = _finite(self._float.rows(self._data, start, stop), start, FLOAT)
            got = _finite(variant.rows(self._data, start, stop), start, VARIANT)
            for name, values in expected.items():
                sums[name].add(values, got[name])
            parts.append((self._answer(chunk, expected), self._answer(chunk, {name: got[name] for name in expected})))
            progress.advance(len(chunk))
        pair = join([before for before, _ in parts]), join([after for _, after in parts])
        return self._compare(pair, variant.payload, tuple(one.result() for one in sums.values()))

    def _compare(self, pair: Pair, variant_model: bytes, differences: tuple[metrics.Difference, ...]) -> Evaluation:
        before, after = pair
        y = self._data.y
        rows, confusion = self._classes(pair)
        figures = self._figures(pair, y)
        has_probabilities = any(figure.name == "ece" for figure in figures)
        return Evaluation(
            task=self._question.task,
            frames=len(self._data),
            has_truth=y is not None,
            figures=figures,
            agreement=_agreement(before, after),
            differences=differences,
            classes=rows,
            confusion=confusion,
            reliability=Reliability(reliability_of(before, y), reliability_of(after, y))
            if has_probabilities and y is not None
            else None,
            slices=tuple(self._slices(pair, figures[0].name)) if figures else (),
            before=self._cost,
            after=cost_of(variant_model),
            measured_before=self._measured,
            measured_after=self._measure(variant_model),
        )

    def _figures(self, pair: Pair, y: Array | None) -> tuple[Figure, ...]:
        before, after = (figures_of(self._question, answers, y) for answers in pair)
        return tuple(Figure(name, value, after[name], better(name)) for name, value in before.items() if name in after)

    def _classes(self, pair: Pair) -> tuple[tuple[ClassRow, ...], Confusion | None]:
        labels = class_names(self._question, pair[0])
        y = self._data.y
        if not labels or y is None:
            return (), None
        before, after = (
            metrics.confusion_matrix(y, answers.choices, len(labels)) for answers in pair if answers.choices is not None
        )
        first, second = metrics.class_scores(before), metrics.class_scores(after)
        rows = tuple(
            ClassRow(label, int(first.support[place]), _class_figures(first, place), _class_figures(second, place))
            for place, label in enumerate(labels)
        )
        return rows, Confusion(_matrix(before), _matrix(after)) if len(labels) <= WHOLE_MATRIX else None

    def _slices(self, pair: Pair, metric: str) -> Iterator[SliceRow]:
        """Yield the main metric of each group of frames for which it is defined."""
        for name, values in self._data.slices.items():
            for value in np.unique(values):
                inside = values == value
                y = None if self._data.y is None else self._data.y[inside]
                figures = self._figures((pair[0].rows(inside), pair[1].rows(inside)), y)
                main = next((one for one in figures if one.name == metric), None)
                if main:
                    yield SliceRow(name, str(value), int(inside.sum()), main)

    def _answer(self, chunk: DataSet, outputs: Outputs) -> Answers:
        return answer(self._question, self._model.inputs[0], chunk, outputs)

    def _chunks(self) -> Iterator[tuple[int, DataSet]]:
        frame = _frame_bytes((*self._model.inputs, *self._model.outputs))
        size = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // frame))
        for start in range(0, len(self._data), size):
            yield start, self._data.rows(slice(start, start + size))

    def _check_custom(self) -> None:
        held = _frame_bytes(self._model.outputs) * len(self._data)
        if self._question.metrics and held > CUSTOM_BYTES:
            raise InvalidInput(
                f"the outputs for the metric {self._question.metrics[0].name!r} take {held >> 20} MiB",
                why=f"{CUSTOM_BYTES >> 20} MiB are allowed, for it is given all of them at once",
                hint="evaluate on fewer frames",
            )

    @cached_property
    def _cost(self) -> ModelCost:
        return cost_of(self._bytes)

    @cached_property
    def _measured(self) -> Measured | None:
        return self._measure(self._bytes)

    def _measure(self, model: bytes) -> Measured | None:
        return None if self._measuring is None else measure_model(model, self._data, self._measuring)


def evaluate(
    float_model: bytes,
    variant_model: bytes,
    data: DataSet,
    question: Question,
    measuring: Measuring | None = STANDARD,
    progress: Progress = silent,
) -> Evaluation:
    """Compare one variant with its float model; see :class:`Evaluator`, which does this for several."""
    return Evaluator(float_model, data, question, measuring).evaluate(variant_model, progress)


def _agreement(before: Answers, after: Answers) -> float | None:
    if before.choices is None or after.choices is None:
        return None
    return metrics.accuracy(before.choices, after.choices)


def _frame_bytes(specs: Sequence[TensorSpec]) -> int:
    return sum(math.prod(spec.shape) * 4 for spec in specs)


def _finite(outputs: Outputs, start: int, what: str) -> Outputs:
    for name, values in outputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            wrong = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            raise InvalidModel(
                f"{what} answers frame {start + int(wrong.argmax())} with NaN or infinite values",
                why=f"in its output {name!r}, on the evaluation data",
            )
    return outputs


def _check_same(expected: Sequence[TensorSpec], got: Sequence[TensorSpec], what: str) -> None:
    before = {spec.name: spec.shape for spec in expected}
    after = {spec.name: spec.shape for spec in got}
    if before != after:
        name = next(name for name in (*before, *after) if before.get(name) != after.get(name))
        raise InvalidModel(
            f"the variant and its float model have different {what}",
            why=f"{name!r} is {_shape(before.get(name))} in one and {_shape(after.get(name))} in the other",
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _class_figures(scores: metrics.ClassScores, place: int) -> ClassFigures:
    return ClassFigures(float(scores.precision[place]), float(scores.recall[place]), float(scores.f1[place]))


def _matrix(counts: metrics.Counts) -> Matrix:
    return tuple(tuple(int(cell) for cell in row) for row in counts)
