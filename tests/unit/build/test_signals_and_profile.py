import math
from itertools import pairwise

import numpy as np
import pytest

from dsops.errors import InvalidInput, InvalidModel
from dsops.manifest import Task, TensorSpec
from dsops.profile import Profile
from dsops.signals import bin_of, entropy, measure, signals_of, watched_inputs
from dsops_controller.build.data import DataSet
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.profile import build_profile, feature, quantile_edges
from dsops_controller.demo.digits import LABELS, Splits, bad_camera

SCORES = np.array([0.5, 0.25, 0.25, 0.0], np.float32)
DIGITS = Meaning(labels=LABELS)
FLOAT = TensorSpec(name="x", datatype="FP32", shape=(1, 4))
FRAME = TensorSpec(name="image", datatype="FP32", shape=(1, 8, 8, 1))


def signals(x: np.ndarray, scores: np.ndarray = SCORES) -> dict[str, float]:
    found = measure(Task.CLASSIFICATION, [(0, x[None])], scores[None], scores[None])
    return {name: value for name, (value,) in found.items()}


def frames(x: np.ndarray) -> DataSet:
    return DataSet({"image": x})


def test_signals_of_a_known_frame() -> None:
    x = np.array([[0.0, 1.0], [0.5, 0.5]], np.float32)[..., None]
    assert signals(x) == {
        "confidence": 0.5,
        "margin": 0.25,
        "entropy": pytest.approx(1.5 * math.log(2), rel=1e-5),
        "predicted_class": 0.0,
        "input_mean": 0.5,
        "input_std": pytest.approx(math.sqrt(0.125), rel=1e-5),
        "input_gradient": 0.5,  # down: 0.5 and 0.5; across: 1 and 0
        "input_saturated": 0.5,
        "input_row": 0.5,  # as much light in the first row as in the second
        "input_column": 0.625,  # 0.5 of the light is left, 1.5 of it right
    }


def test_signals_of_a_series() -> None:
    found = signals(np.tile(np.array([1.0, 3.0, 2.0], np.float32), 6))
    assert found["input_gradient"] == pytest.approx(23 / 17, rel=1e-5)  # six times 2 and 1, five times 1
    series = TensorSpec(name="x", datatype="FP32", shape=(1, 18))
    assert list(found) == list(signals_of(Task.CLASSIFICATION, [series]))


def test_each_feature_of_a_row_is_a_signal() -> None:
    found = signals(np.array([1.0, 3.0, 2.0, 0.0], np.float32))
    assert list(found) == list(signals_of(Task.CLASSIFICATION, [FLOAT]))
    assert {name: value for name, value in found.items() if name.startswith("input")} == {
        "input_1": 1.0,
        "input_2": 3.0,
        "input_3": 2.0,
        "input_4": 0.0,
    }


def test_the_centre_of_a_frame_without_light_is_its_middle() -> None:
    found = signals(np.full((3, 5, 2), -0.5, np.float32))
    assert (found["input_row"], found["input_column"]) == (0.5, 0.5)


def test_a_frame_that_moves_takes_its_centre_with_it() -> None:
    x = np.zeros((8, 8, 1), np.float32)
    x[2, 5] = 1.0
    found = signals(x - 1.0)
    assert (found["input_row"], found["input_column"]) == (2.5 / 8, 5.5 / 8)


def test_missing_values_and_rare_zeros_of_a_feature_have_bins_of_their_own() -> None:
    values = np.random.default_rng(0).normal(size=500)
    values[:5], values[5:8] = np.nan, 0.0
    signal = feature("input_1", values)
    assert (signal.marks, signal.missing, signal.counts[-2:], sum(signal.counts)) == ((0.0,), True, (3, 5), 500)
    assert signal.bin(0.0) == len(signal.counts) - 2
    assert signal.bin(math.nan) == len(signal.counts) - 1
    assert signal.bin(math.inf) == len(signal.edges)
    assert signal.counts[0] == signal.counts[len(signal.edges)] == 0  # outside the range

    assert feature("input_1", np.abs(values)).marks == ()  # 0 is at the border, where a bin ends anyway
    assert feature("input_1", np.where(values > 0.5, values, np.minimum(values, 0.0) * (values < -0.5))).marks == ()


def test_a_feature_that_is_never_there_is_no_profile() -> None:
    with pytest.raises(InvalidInput, match="no value of input_2"):
        feature("input_2", np.full(300, np.nan))


def test_a_single_number_has_no_gradient() -> None:
    assert signals(np.array([2.0], np.float32))["input_gradient"] == 0.0


def test_entropy_scales_its_scores_and_ignores_what_is_not_positive() -> None:
    assert entropy([2.0, 2.0, 0.0, -1.0]) == pytest.approx(math.log(2))
    assert entropy([0.0, 0.0]) == 0.0


def test_nan_falls_into_the_last_bin() -> None:
    found = signals(np.full((2, 1, 1), np.nan, np.float32))
    assert bin_of([0.0, 1.0, 2.0], found["input_mean"]) == 3
    assert math.isnan(found["input_row"])


def test_the_last_bit_of_a_value_does_not_move_it_to_another_bin() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((8, 8, 1), np.float32)
    nudged = np.nextafter(x, np.float32(2))
    assert abs(signals(x)["input_mean"] - signals(nudged)["input_mean"]) <= 1e-6
    values = np.round(rng.choice([0.1, 0.2, 0.3, 0.7], 500), 6)
    edges = quantile_edges(values)
    for value in np.unique(values):
        bins = {bin_of(edges, v) for v in (np.nextafter(value, 0), value, np.nextafter(value, 1))}
        assert len(bins) == 1


def test_edges_hold_equal_shares_when_values_differ() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1000.0))
    edges = quantile_edges(values)
    counts = np.bincount([bin_of(edges, v) for v in values], minlength=12)
    assert counts.tolist() == [0, *[100] * 10, 0]


@pytest.mark.parametrize("values", [np.zeros(300), np.ones(300), np.repeat([0.0, 1.0], [299, 1])])
def test_edges_of_tied_values_ascend_and_hold_everything(values: np.ndarray) -> None:
    edges = quantile_edges(values)
    assert all(a < b for a, b in pairwise(edges))
    assert {bin_of(edges, v) for v in values} <= set(range(1, len(edges)))
    assert bin_of(edges, values.min() - 0.1) == 0
    assert bin_of(edges, values.max() + 0.1) == len(edges)


def test_the_profile_counts_every_reference_frame_once(int8_model: bytes, digits: Splits) -> None:
    profile = build_profile(int8_model, frames(digits.reference.x), DIGITS)
    assert profile.n_ref == 500
    assert [signal.name for signal in profile.signals] == list(signals_of(Task.CLASSIFICATION, [FRAME]))
    for signal in profile.signals:
        assert sum(signal.counts) == 500
        if signal.kind == "ordinal":
            assert signal.counts[0] == signal.counts[-1] == 0  # outside the reference is outside its own range
    assert Profile.decode(profile.encode()) == profile


def test_the_profile_is_that_of_the_quantized_model(int8_model: bytes, digits: Splits) -> None:
    profile = build_profile(int8_model, frames(digits.reference.x), DIGITS)
    classes = LitertModel(int8_model).run({"image": digits.reference.x})["scores"].argmax(1)
    found = next(signal for signal in profile.signals if signal.name == "predicted_class")
    assert found.counts == tuple(np.bincount(classes, minlength=10).tolist())


def test_bad_frames_leave_the_reference(int8_model: bytes, digits: Splits) -> None:
    profile = build_profile(int8_model, frames(digits.reference.x), DIGITS)
    spread = next(signal for signal in profile.signals if signal.name == "input_std")
    bad = bad_camera(digits.test.x[:50], 0)
    scores = LitertModel(int8_model).run({"image": bad})["scores"]
    bins = [bin_of(spread.edges, signals(x, s)["input_std"]) for x, s in zip(bad, scores, strict=True)]
    assert bins.count(0) > 45


def test_a_small_reference_is_refused(int8_model: bytes, digits: Splits) -> None:
    with pytest.raises(InvalidInput, match="has 199 frames"):
        build_profile(int8_model, frames(digits.reference.x[:199]), DIGITS)


def test_a_profile_for_other_labels_is_refused(int8_model: bytes, digits: Splits) -> None:
    with pytest.raises(InvalidModel, match="9 labels for an output"):
        build_profile(int8_model, frames(digits.reference.x), Meaning(labels=LABELS[:9]))


def test_other_tasks_have_signals_of_their_own() -> None:
    given, rebuilt = np.array([[1.0, 2.0]], np.float32), np.array([[1.0, 4.0]], np.float32)
    pair = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
    found = measure(Task.RECONSTRUCTION, [(0, given)], rebuilt, np.array([2.0], np.float32))
    assert found["reconstruction_error"] == [2.0]
    assert list(found) == list(signals_of(Task.RECONSTRUCTION, [pair]))
    found = measure(Task.REGRESSION, [(0, given)], rebuilt, None)
    assert (found["output_mean"], found["output_std"]) == ([2.5], [1.5])
    assert list(found) == list(signals_of(Task.REGRESSION, [pair]))


def test_each_real_input_is_measured_and_indices_are_not() -> None:
    index = TensorSpec(name="id", datatype="INT64", shape=(1, 1))
    stored = TensorSpec(name="q", datatype="INT8", shape=(1, 4), scale=0.1)
    assert watched_inputs([FLOAT, index, stored]) == (0, 2)
    names = set(signals_of(Task.OTHER, [FLOAT, index, stored]))
    assert {"input_1", "input3_4"} <= names
    assert not any(name.startswith("input2") for name in names)
    assert watched_inputs([FLOAT] * 9) == (0, 1, 2, 3)
