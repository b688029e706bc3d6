import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

from dsops.errors import DsopsError, InvalidInput, InvalidModel
from dsops.manifest import Postprocessing, Task
from dsops_controller.build.conversion.tflite_writer import TfliteWriter
from dsops_controller.build.data import Array, DataSet
from dsops_controller.build.evaluation.answers import CustomMetric, Question
from dsops_controller.build.evaluation.evaluate import CHUNK_FRAMES, Evaluator, evaluate
from dsops_controller.build.evaluation.evaluation import Figure
from dsops_controller.build.evaluation.measure_model import Measuring, measure_model
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantization.quantize import QuantMode, quantize
from dsops_controller.demo.digits import Splits

LABELS = tuple("0123456789")
DIGITS = Question(Task.CLASSIFICATION, labels=LABELS)
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def data(digits: Splits) -> DataSet:
    half = np.arange(len(digits.reference)) % 2
    return DataSet({"image": digits.reference.x}, digits.reference.y, {"half": half})


def layers(*matrices: tuple[Floats, Floats]) -> bytes:
    """Return a model of fully connected layers without activations, from ``x`` to ``y``."""
    writer = TfliteWriter("test")
    x = place = writer.tensor("x", [1, matrices[0][0].shape[1]])
    for number, (weights, bias) in enumerate(matrices):
        after = writer.tensor(f"y{number}", [1, len(weights)])
        constants = [
            writer.constant(f"w{number}", np.ascontiguousarray(weights, np.float32)),
            writer.constant(f"b{number}", np.ascontiguousarray(bias, np.float32)),
        ]
        options = schema.FullyConnectedOptionsT()
        writer.operator(schema.BuiltinOperator.FULLY_CONNECTED, [place, *constants], [after], options)
        place = after
    return writer.finish({"x": x}, {"y": place})


def values(figures: tuple[Figure, ...]) -> dict[str, tuple[float, float]]:
    return {figure.name: (figure.before, figure.after) for figure in figures}


class Counter:
    def __init__(self) -> None:
        self.frames = 0

    def step(self, name: str, total: int | None = None) -> None:
        raise AssertionError(name)

    def advance(self, units: int = 1) -> None:
        self.frames += units


def test_a_classifier_s_figures_are_those_of_its_outputs(float_model: bytes, int8_model: bytes, data: DataSet) -> None:
    assert len(data) > CHUNK_FRAMES  # so that answers are put together from several chunks
    counter = Counter()
    found = Evaluator(float_model, data, DIGITS, None).evaluate(int8_model, counter)
    before = LitertModel(float_model).run(data.inputs)["scores"]
    after = LitertModel(int8_model).run(data.inputs)["scores"]
    y = data.y
    figures = values(found.figures)
    assert figures["accuracy"] == ((before.argmax(1) == y).mean(), (after.argmax(1) == y).mean())
    for place, scores in enumerate((before, after)):
        expected = np.mean([roc_auc_score(y == label, scores[:, label]) for label in range(10)])
        assert figures["auc"][place] == pytest.approx(expected)
    assert "ece" in figures
    assert "top5_accuracy" not in figures
    assert found.agreement == (before.argmax(1) == after.argmax(1)).mean()
    assert found.differences[0].largest == np.abs(before.astype(np.float64) - after).max()
    assert found.before.size_bytes == len(float_model)
    assert found.after.size_bytes == len(int8_model)
    assert found.frames == counter.frames == len(data)
    assert found.summary()["float_accuracy"] == figures["accuracy"][0]


def test_tables_by_class_and_slice_add_up(float_model: bytes, int8_model: bytes, data: DataSet) -> None:
    found = evaluate(float_model, int8_model, data, DIGITS, None)
    accuracy = found.figure("accuracy")
    assert accuracy is not None
    assert sum(row.support for row in found.classes) == len(data)
    weighted = sum(row.after.recall * row.support for row in found.classes) / len(data)
    assert weighted == pytest.approx(accuracy.after)
    assert found.confusion is not None
    assert sum(found.confusion.after[place][place] for place in range(10)) == round(accuracy.after * len(data))
    assert [(row.slice, row.value, row.count) for row in found.slices] == [("half", "0", 250), ("half", "1", 250)]
    assert np.mean([row.figure.before for row in found.slices]) == pytest.approx(accuracy.before)
    assert found.reliability is not None
    assert sum(one.count for one in found.reliability.after) == len(data)


def test_the_float_model_against_itself_is_equal(float_model: bytes, data: DataSet) -> None:
    evaluator = Evaluator(float_model, data, DIGITS, None)
    first, second = evaluator.evaluate(float_model), evaluator.evaluate(float_model)
    assert first == second
    assert first.agreement == 1.0
    assert all(figure.drop == 0.0 for figure in first.figures)
    assert first.differences[0].sqnr_db is None


def test_without_truth_there_are_agreement_and_differences(
    float_model: bytes, int8_model: bytes, data: DataSet
) -> None:
    found = evaluate(float_model, int8_model, replace(data, y=None), DIGITS, None)
    assert (found.figures, found.classes, found.slices, found.confusion) == ((), (), (), None)
    assert not found.has_truth
    assert found.agreement is not None
    assert found.differences


def test_scores_that_are_no_probabilities_have_no_calibration(data: DataSet) -> None:
    model = layers((np.eye(10, 64, dtype=np.float32) * 9, np.zeros(10, np.float32)))
    flat = DataSet({"x": data.inputs["image"].reshape(-1, 64)}, data.y)
    names = values(evaluate(model, model, flat, DIGITS, None).figures)
    assert "ece" not in names
    with_softmax = replace(DIGITS, rule=Postprocessing(activation="softmax"))
    assert "ece" in values(evaluate(model, model, flat, with_softmax, None).figures)


def test_a_regression_on_real_measurements() -> None:
    x, y = load_diabetes(return_X_y=True)
    x, y = (x * 20).astype(np.float32), y.astype(np.float32)
    fitted = LinearRegression().fit(x[:300], y[:300])
    model = layers((fitted.coef_[None], np.array([fitted.intercept_])))
    variant = quantize(model, QuantMode.INT8, DataSet({"x": x[:300]})).data
    held_out = DataSet({"x": x[300:]}, y[300:], {"sex": (x[300:, 1] > 0).astype(np.int64)})
    found = evaluate(model, variant, held_out, Question(Task.REGRESSION), None)
    figures = values(found.figures)
    for place, payload in enumerate((model, variant)):
        guess = LitertModel(payload).run(held_out.inputs)["y"][:, 0]
        assert figures["mae"][place] == pytest.approx(mean_absolute_error(y[300:], guess))
        assert figures["rmse"][place] == pytest.approx(mean_squared_error(y[300:], guess) ** 0.5)
        assert figures["r2"][place] == pytest.approx(r2_score(y[300:], guess))
    assert found.main is not None
    assert (found.main.name, found.main.better) == ("mae", "lower")
    assert found.main.drop == found.main.after - found.main.before
    counts = [row.count for row in found.slices]
    mean = sum(row.figure.after * count for row, count in zip(found.slices, counts, strict=True)) / sum(counts)
    assert mean == pytest.approx(found.main.after)
    assert found.agreement is None


def test_a_reconstruction_finds_digits_that_it_has_not_seen(digits: Splits) -> None:
    flat = digits.train.x.reshape(-1, 64)
    plane = PCA(6, random_state=0).fit(flat[digits.train.y == 0])
    down, up = plane.components_, plane.components_.T
    model = layers((down, -down @ plane.mean_), (up, plane.mean_))
    shown = np.isin(digits.test.y, (0, 1))
    x, y = digits.test.x[shown].reshape(-1, 64), digits.test.y[shown]
    variant = quantize(model, QuantMode.INT8, DataSet({"x": flat[digits.train.y == 0]})).data
    question = Question(Task.RECONSTRUCTION, Postprocessing(threshold=0.02))
    found = evaluate(model, variant, DataSet({"x": x}, y), question, None)
    error = ((LitertModel(model).run({"x": x})["y"] - x) ** 2).mean(axis=1)
    figures = values(found.figures)
    assert figures["auc"][0] == pytest.approx(roc_auc_score(y, error))
    assert figures["auc"][0] > 0.99
    assert figures["mean_error"][0] == pytest.approx(error.mean())
    assert figures["accuracy"][0] == ((error >= 0.02) == y).mean()
    assert [row.label for row in found.classes] == ["normal", "anomaly"]
    assert found.agreement is not None
    without = evaluate(model, variant, DataSet({"x": x}), Question(Task.RECONSTRUCTION), None)
    assert [figure.name for figure in without.figures] == ["mean_error"]


def test_a_custom_metric_sees_every_output_and_the_truth(float_model: bytes, int8_model: bytes, data: DataSet) -> None:
    def right(outputs: dict[str, Floats], y: NDArray[np.int64] | None) -> dict[str, float]:
        hits = outputs["scores"].argmax(axis=1) == y
        outputs["scores"][:] = 0  # spoils nothing: it is a copy
        return {"share": float(hits.mean()), "count": float(hits.sum())}

    question = Question(Task.OTHER, metrics=(CustomMetric("right", right),))
    found = values(evaluate(float_model, int8_model, data, question, None).figures)
    plain = values(evaluate(float_model, int8_model, data, DIGITS, None).figures)
    assert list(found) == ["right.share", "right.count"]
    assert found["right.share"] == plain["accuracy"]


def failing(outputs: dict[str, Floats], y: object) -> float:
    raise KeyError("boxes")


def leaving(outputs: dict[str, Floats], y: object) -> float:
    sys.exit(0)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (failing, "the metric 'iou' failed: KeyError: 'boxes'"),
        (leaving, "the metric 'iou' failed: SystemExit: 0"),
        (lambda outputs, y: float("nan"), "the metric 'iou' gives no number: it returned nan"),
        (lambda outputs, y: {}, "the metric 'iou' gives no number: it returned an empty dict"),
        (lambda outputs, y: "high", "the metric 'iou' gives no number: it returned a str"),
        (lambda outputs, y: None, "the metric 'iou' gives no number: it returned None"),
        (lambda outputs, y: np.ones((2, 3)), r"the metric 'iou' gives no number: it returned an array \[2, 3\]"),
        (lambda outputs, y: {"a": 1, 0: np.inf}, "the metric 'iou.0' gives no number: it returned inf"),
    ],
)
def test_a_custom_metric_that_fails_is_named(
    float_model: bytes, data: DataSet, function: Callable[..., float], text: str
) -> None:
    question = Question(Task.OTHER, metrics=(CustomMetric("iou", function),))
    with pytest.raises(InvalidInput, match=text):
        evaluate(float_model, float_model, data, question, None)


def test_a_custom_metric_cannot_change_the_other_figures(
    float_model: bytes, int8_model: bytes, data: DataSet, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(outputs: dict[str, Array], y: Array | None) -> float:
        print("spoiling")
        assert y is not None
        y[:] = 0
        outputs["scores"][:] = [1] + [0] * 9
        return 1.0

    def later(outputs: dict[str, Array], y: Array | None) -> float:
        return float((outputs["scores"].argmax(axis=1) == y).mean())

    question = replace(DIGITS, metrics=(CustomMetric("spoil", spoil), CustomMetric("later", later)))
    found = values(evaluate(float_model, int8_model, data, question, None).figures)
    plain = values(evaluate(float_model, int8_model, data, DIGITS, None).figures)
    assert found == plain | {"spoil": (1.0, 1.0), "later": plain["accuracy"]}
    assert capsys.readouterr().out == ""


def test_a_custom_metric_does_not_replace_a_figure(float_model: bytes, data: DataSet) -> None:
    question = replace(DIGITS, metrics=(CustomMetric("accuracy", lambda outputs, y: 1.0),))
    with pytest.raises(InvalidInput, match="the metric 'accuracy' gives 'accuracy': another figure has this name"):
        evaluate(float_model, float_model, data, question, None)


@pytest.mark.parametrize("y", [np.zeros((500, 8, 8), np.int64), np.zeros(500, np.float32), np.full(500, 11)])
def test_a_truth_of_another_task_leads_to_the_task(float_model: bytes, data: DataSet, y: Array) -> None:
    with pytest.raises(InvalidInput) as caught:
        evaluate(float_model, float_model, replace(data, y=y), DIGITS, None)
    assert "model.task than 'classification'" in caught.value.hint


def relabelled(data: DataSet) -> DataSet:
    assert data.y is not None
    y = data.y.copy()
    y[4] = 10
    return replace(data, y=y)


@pytest.mark.parametrize(
    ("spoil", "error", "text"),
    [
        (relabelled, InvalidInput, r"the evaluation data has label 10 in row 4: .*0 \('0'\) to 9 \('9'\)"),
        (lambda data: replace(data, y=data.y[:-1]), InvalidInput, "'y' of the evaluation data has 499 rows"),
        (lambda data: replace(data, y=data.y / 2), InvalidInput, "'y' of the evaluation data is float64"),
        (lambda data: DataSet({"image": data.inputs["image"][:0]}), InvalidInput, "has no frames"),
        (lambda data: DataSet({"picture": data.inputs["image"]}), InvalidInput, "has no array 'image'"),
        (lambda data: DataSet({"image": data.inputs["image"] * np.float32("nan")}), InvalidInput, "holds NaN"),
    ],
)
def test_data_that_does_not_fit_is_named(
    float_model: bytes, data: DataSet, spoil: Callable[[DataSet], DataSet], error: type[DsopsError], text: str
) -> None:
    with pytest.raises(error, match=text):
        evaluate(float_model, float_model, spoil(data), DIGITS, None)


def test_labels_of_another_number_are_refused(float_model: bytes, data: DataSet) -> None:
    with pytest.raises(InvalidModel, match=r"does not match its labels.*11 labels"):
        Evaluator(float_model, data, Question(Task.CLASSIFICATION, labels=(*LABELS, "10")), None)


def test_a_variant_with_other_outputs_is_refused(float_model: bytes, data: DataSet) -> None:
    other = layers((np.eye(10, 64, dtype=np.float32), np.zeros(10, np.float32)))
    with pytest.raises(InvalidModel, match="different inputs"):
        Evaluator(float_model, data, DIGITS, None).evaluate(other)


def test_an_answer_that_is_no_number_is_named_with_its_frame() -> None:
    plain = layers((np.full((1, 4), 1e30, np.float32), np.zeros(1, np.float32)))
    huge = layers((np.full((1, 4), 3e38, np.float32), np.zeros(1, np.float32)))
    x = np.zeros((300, 4), np.float32)
    x[290] = 2.0
    data = DataSet({"x": x}, np.zeros(300, np.float32))
    with pytest.raises(InvalidModel, match=r"the variant answers frame 290 with NaN.*output 'y'"):
        evaluate(plain, huge, data, Question(Task.REGRESSION), None)
    with pytest.raises(InvalidModel, match="the float model answers frame 290"):
        evaluate(huge, plain, data, Question(Task.REGRESSION), None)


def test_what_this_machine_takes_is_measured(float_model: bytes, int8_model: bytes, data: DataSet) -> None:
    found = evaluate(float_model, int8_model, data, DIGITS, Measuring((1, 2), seconds=0.02))
    for measured, cost in ((found.measured_before, found.before), (found.measured_after, found.after)):
        assert measured is not None
        assert [latency.threads for latency in measured.latencies] == [1, 2]
        for latency in measured.latencies:
            assert 0 < latency.smallest_us <= latency.median_us <= latency.p95_us <= latency.p99_us
            assert sum(latency.counts) == latency.repeats
            assert len(latency.edges) == len(latency.counts) + 1
        assert measured.memory is not None
        assert measured.memory.peak_bytes > measured.memory.base_bytes > 10 << 20
        assert len(measured.operator_us) == len(cost.operators)
        assert all(taken is not None and taken > 0 for taken in measured.operator_us)


def test_a_model_that_cannot_be_measured_is_said(float_model: bytes, data: DataSet) -> None:
    with pytest.raises(InvalidModel, match="the model cannot be measured: its process ended with 1: ValueError"):
        measure_model(float_model, data, Measuring((0,)))
