from dataclasses import replace

import pytest
from pydantic import ValidationError
from report_cases import classification, difference, parity, regression

from dsops.errors import AccuracyGateFailed, InvalidConfig
from dsops.manifest import Task
from dsops_controller.build.evaluation.evaluation import Evaluation, Figure
from dsops_controller.build.evaluation.gate import Gate, Verdict, check, require_passed

GOOD = classification()


def verdict(key: str, limit: float, evaluation: Evaluation = GOOD, **others: float) -> Verdict:
    found = check(Gate.model_validate({key: limit, **others}), evaluation, parity(2e-6))
    return next(one for one in found if one.key == key)


@pytest.mark.parametrize(
    ("key", "found", "where"),
    [
        ("max_accuracy_drop", 0.01, ""),
        ("max_f1_drop", 0.01, ""),
        ("max_auc_drop", 0.009, ""),
        ("max_output_difference", 0.4, "output features"),
        ("max_class_recall_drop", 0.05, "class cat"),
        ("max_slice_drop", 0.03, "lamp = low"),
        ("max_parity_error", 2e-6, "output scores"),
        ("max_size_bytes", 10_000, ""),
        ("max_latency_ms", 0.006, "1 thread"),
    ],
)
def test_a_limit_from_above(key: str, found: float, where: str) -> None:
    exact = verdict(key, found)
    assert exact.figure == pytest.approx(found)
    assert exact.where == where
    assert exact.passed, "exactly what is allowed passes"
    assert not verdict(key, int(found * 0.9) if key == "max_size_bytes" else found * 0.9).passed


@pytest.mark.parametrize(
    ("key", "found"), [("min_accuracy", 0.97), ("min_auc", 0.99), ("min_agreement", 0.99), ("min_cosine", 0.99)]
)
def test_a_limit_from_below(key: str, found: float) -> None:
    assert verdict(key, found).passed
    assert not verdict(key, found + 0.001).passed


def test_an_exact_drop_passes_though_its_difference_is_rounded() -> None:
    rounded = replace(GOOD, figures=(Figure("accuracy", 0.98, 0.97),))
    assert 0.98 - 0.97 > 0.01
    assert verdict("max_accuracy_drop", 0.01, rounded).passed


def test_an_error_may_grow_relative_to_the_float_model_s() -> None:
    assert verdict("max_mae_increase", 0.04, regression()).passed
    assert not verdict("max_mae_increase", 0.039, regression()).passed
    assert not verdict("max_mae", 10.3, regression()).passed
    assert verdict("max_mae_increase", 0.0, regression(10.0, 9.0)).figure == pytest.approx(-0.1)


def test_classes_and_slices_of_few_frames_are_not_judged() -> None:
    assert verdict("max_class_recall_drop", 1.0, min_count=4).where == "class dog"
    assert verdict("max_slice_drop", 1.0, min_count=3).where == "lamp = high"


def test_any_metric_by_name_and_in_its_own_direction() -> None:
    custom = replace(GOOD, figures=(*GOOD.figures, Figure("iou.cars", 0.8, 0.75)))
    found = check(Gate(max_drop={"iou.cars": 0.04, "ece": 0.02}), custom)
    judged = {one.key: (one.passed, round(one.figure, 6)) for one in found if one.key.startswith("max_drop")}
    assert judged == {"max_drop.iou.cars": (False, 0.05), "max_drop.ece": (True, 0.01)}


def test_defaults_follow_the_task_and_what_the_data_allows() -> None:
    def keys(evaluation: Evaluation) -> dict[str, float]:
        found = check(Gate(), evaluation)
        assert all(one.is_default for one in found)
        return {one.key: one.limit for one in found}

    unlabelled = replace(GOOD, figures=(), classes=(), has_truth=False)
    rebuilt = replace(regression(), task=Task.RECONSTRUCTION, figures=(Figure("mean_error", 1.0, 1.1, "lower"),))
    assert keys(GOOD) == {"max_accuracy_drop": 0.01, "min_agreement": 0.97}
    assert keys(unlabelled) == {"min_agreement": 0.97}
    assert keys(regression()) == {"max_mae_increase": 0.05}
    assert keys(rebuilt) == {"max_mean_error_increase": 0.05}
    assert keys(replace(rebuilt, figures=(Figure("auc", 0.9, 0.9), *rebuilt.figures))) == {"max_auc_drop": 0.01}
    assert keys(replace(unlabelled, task=Task.OTHER, agreement=None)) == {"min_cosine": 0.95}
    assert [one.key for one in check(Gate(), GOOD, parity(1e-4)) if not one.passed] == ["max_parity_error"]


def test_a_key_that_is_given_replaces_its_default() -> None:
    found = check(Gate(max_accuracy_drop=0.5), GOOD)
    assert [(one.key, one.limit, one.is_default) for one in found] == [
        ("max_accuracy_drop", 0.5, False),
        ("min_agreement", 0.97, True),
    ]


@pytest.mark.parametrize(
    ("gate", "evaluation", "text"),
    [
        (Gate(min_accuracy=0.9), replace(GOOD, figures=(), has_truth=False), "min_accuracy cannot be judged.*no truth"),
        (Gate(max_auc_drop=0.1), regression(), "max_auc_drop cannot be judged.*metrics: mae"),
        (Gate(min_agreement=0.9), regression(), "min_agreement cannot be judged.*choose no labels"),
        (Gate(max_class_recall_drop=0.1), regression(), "max_class_recall_drop cannot be judged.*no classes"),
        (Gate(max_class_recall_drop=0.1, min_count=21), GOOD, "no class has 21 frames"),
        (Gate(max_slice_drop=0.1), regression(), "max_slice_drop cannot be judged.*no slices"),
        (Gate(max_slice_drop=0.1, min_count=61), GOOD, "no slice has 61 frames"),
        (Gate(max_parity_error=1e-5), GOOD, "max_parity_error cannot be judged.*ONNX"),
        (Gate(max_latency_ms=1), regression(), "max_latency_ms cannot be judged.*not measured"),
        (Gate(max_drop={"iou": 0.1}), GOOD, "max_drop.iou cannot be judged.*'iou' was not computed"),
        (Gate(max_mae_increase=0.1), regression(0.0, 0.1), "max_mae_increase cannot be judged.*nothing to compare"),
    ],
)
def test_a_key_that_cannot_be_judged_is_an_error(gate: Gate, evaluation: Evaluation, text: str) -> None:
    with pytest.raises(InvalidConfig, match=text):
        check(gate, evaluation)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_accuracy": 1},
        {"max_accuracy_drop": -0.1},
        {"min_auc": 1.1},
        {"max_mae": float("nan")},
        {"max_drop": {"x": -1}},
    ],
)
def test_a_gate_that_is_wrong_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Gate.model_validate(wrong)


def test_a_failure_names_every_key_with_its_figure_and_limit() -> None:
    worse = replace(GOOD, agreement=0.9, differences=(difference("boxes", 9.0),))
    verdicts = check(Gate(max_accuracy_drop=0.001, max_output_difference=1.0), worse)
    with pytest.raises(AccuracyGateFailed) as caught:
        require_passed(verdicts, "int8")
    assert "the variant int8 does not pass its gate" in str(caught.value)
    assert "max_accuracy_drop: 0.01, allowed <= 0.001" in caught.value.why
    assert "max_output_difference: 9 (output boxes), allowed <= 1" in caught.value.why
    assert "min_agreement: 0.9, allowed >= 0.97" in caught.value.why
    require_passed(check(Gate(), GOOD), "int8")
