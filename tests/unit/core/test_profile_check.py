"""A profile that the drift monitor could not work with is refused before anything relies on it."""

import pytest

from dsops import strictjson
from dsops.errors import MalformedBundle
from dsops.manifest import Task, TensorSpec
from dsops.profile import Profile, Signal, check_profile
from dsops.signals import signals_of

INPUTS = (TensorSpec(name="image", datatype="FP32", shape=(1, 8, 8, 1)),)
OUTPUTS = (TensorSpec(name="scores", datatype="FP32", shape=(1, 3)),)
ONE_SCORE = (TensorSpec(name="score", datatype="FP32", shape=(1, 1)),)


def signal(name: str, kind: str, classes: int = 3) -> dict[str, object]:
    if kind == "categorical":
        return {"name": name, "kind": kind, "counts": [200, *[0] * (classes - 1)]}
    return {"name": name, "kind": kind, "edges": [0.5], "counts": [120, 80]}


def profile_of(task: Task = Task.CLASSIFICATION, classes: int = 3) -> dict[str, object]:
    listed = [signal(name, kind, classes) for name, kind in signals_of(task, INPUTS).items()]
    return {"n_ref": 200, "signals": listed}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"horizons": [10**9]}, "horizons"),
        ({"horizons": [100_001]}, "100000"),
        ({"horizons": list(range(1, 10))}, "at most 8"),
        ({"horizons": [50, 50]}, "do not ascend"),
        ({"horizons": []}, "horizons"),
        ({"horizons": [50.0]}, "horizons"),
        ({"n_ref": 200.0}, "n_ref"),
        ({"n_ref": 2**53 + 1}, "n_ref"),
        ({"n_ref": 201}, "counts 200 frames of 201"),
        ({"signals": [signal("a", "ordinal"), signal("a", "categorical")]}, "one name"),
        ({"signals": [signal("a", "ordinal") | {"counts": [0, 0]}]}, "counts 0 frames"),
        ({"signals": [signal("a", "ordinal") | {"counts": [10**40, 0]}]}, "counts"),
        ({"signals": [signal("a", "ordinal") | {"counts": [100.0, 100]}]}, "counts"),
        ({"signals": [signal("a", "ordinal") | {"edges": [1.5e300]}]}, "edges"),
        ({"signals": [signal("a", "ordinal") | {"missing": True}]}, "2 bins instead of 3"),
        ({"signals": [signal("a", "ordinal") | {"marks": [0.0]}]}, "2 bins instead of 3"),
        ({"signals": [signal("a", "ordinal") | {"marks": [0, 0], "counts": [120, 80, 0, 0]}]}, "one mark twice"),
        ({"signals": [signal("a", "categorical") | {"marks": [1.0]}]}, "is categorical"),
    ],
)
def test_a_profile_out_of_bounds_is_malformed(change: dict[str, object], expected: str) -> None:
    Profile.decode(strictjson.dumps(profile_of()))
    with pytest.raises(MalformedBundle) as caught:
        Profile.decode(strictjson.dumps(profile_of() | change))
    assert expected in caught.value.why


@pytest.mark.parametrize("task", list(Task))
def test_the_signals_of_a_task_in_any_order_are_right(task: Task) -> None:
    profile = Profile.model_validate(profile_of(task))
    turned = profile.model_copy(update={"signals": profile.signals[::-1]})
    check_profile(turned, task, (), INPUTS, OUTPUTS)


def test_signals_of_inputs_may_be_left_out() -> None:
    profile = Profile.model_validate(profile_of())
    without = tuple(one for one in profile.signals if not one.name.startswith("input"))
    assert len(without) < len(profile.signals)
    check_profile(profile.model_copy(update={"signals": without}), Task.CLASSIFICATION, (), INPUTS, OUTPUTS)


def test_another_models_signals_are_refused() -> None:
    profile = Profile.model_validate(profile_of())
    fewer = profile.model_copy(update={"signals": profile.signals[1:]})
    swapped = Signal.model_validate(signal("confidence", "categorical"))
    cases = [
        (fewer, "'confidence' is absent, but should be ordinal"),
        (profile.model_copy(update={"signals": (swapped, *profile.signals[1:])}), "'confidence' is categorical"),
        (Profile.model_validate(profile_of(Task.REGRESSION)), "'confidence' is absent"),
    ]
    for wrong, expected in cases:
        with pytest.raises(MalformedBundle, match="does not watch") as caught:
            check_profile(wrong, Task.CLASSIFICATION, (), INPUTS, OUTPUTS)
        assert expected in caught.value.why


def test_classes_are_the_models() -> None:
    two, three = (Profile.model_validate(profile_of(classes=classes)) for classes in (2, 3))
    check_profile(three, Task.CLASSIFICATION, ("a", "b", "c"), INPUTS, OUTPUTS)
    check_profile(two, Task.CLASSIFICATION, ("a", "b"), INPUTS, ONE_SCORE)
    for wrong, outputs in ((two, OUTPUTS), (three, ONE_SCORE)):
        with pytest.raises(MalformedBundle, match="classes"):
            check_profile(wrong, Task.CLASSIFICATION, (), INPUTS, outputs)
