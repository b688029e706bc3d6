from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from dsops_controller.build.litert import LitertModel
from dsops_controller.demo import prepare
from dsops_controller.demo.digits import Labelled, Splits, bad_camera, balanced_mix, splits
from dsops_controller.demo.train import accuracy, probabilities, to_onnx, train

REPOSITORY = Path(__file__).parents[3]


def rows(data: Labelled) -> set[bytes]:
    return {frame.tobytes() for frame in data.x}


def test_no_image_is_in_two_parts(digits: Splits) -> None:
    train_rows, reference, test = rows(digits.train), rows(digits.reference), rows(digits.test)
    assert (len(digits.train), len(digits.reference), len(digits.test)) == (797, 500, 500)
    assert rows(digits.calibration) <= train_rows
    assert not train_rows & reference
    assert not train_rows & test
    assert not reference & test


def test_held_out_images_were_never_trained_on(digits: Splits) -> None:
    assert len(digits.held_out) == 1000
    assert not rows(digits.held_out) & rows(digits.train)


def test_each_part_holds_each_class_in_proportion(digits: Splits) -> None:
    for part in (digits.train, digits.calibration, digits.reference, digits.test):
        shares = np.bincount(part.y, minlength=10) / len(part)
        assert shares.min() > 0.085
        assert shares.max() < 0.115
        assert part.x.dtype == np.float32
        assert (part.x.min(), part.x.max()) == (0.0, 1.0)


def test_the_seed_decides_the_split(digits: Splits) -> None:
    np.testing.assert_array_equal(splits(0).test.x, digits.test.x)
    assert not np.array_equal(splits(1).test.x, digits.test.x)


def test_training_repeats_itself_and_onnx_says_the_same(digits: Splits) -> None:
    few = digits.train.take(np.arange(200))
    weights = train(few, 5, epochs=2)
    again = train(few, 5, epochs=2)
    np.testing.assert_array_equal(weights.conv2, again.conv2)
    assert to_onnx(weights) == to_onnx(again)
    evaluator = ReferenceEvaluator(onnx.load_from_string(to_onnx(weights)))
    for frame in digits.test.x[:5]:
        scores = evaluator.run(None, {"image": frame[None].transpose(0, 3, 1, 2)})[0]
        np.testing.assert_allclose(scores, probabilities(weights, frame[None]), atol=1e-5)


def test_the_bad_camera_is_seeded_and_stays_in_range(digits: Splits) -> None:
    x = digits.test.x.copy()
    seen = bad_camera(x, 1)
    np.testing.assert_array_equal(x, digits.test.x)
    np.testing.assert_array_equal(seen, bad_camera(x, 1))
    assert not np.array_equal(seen, bad_camera(x, 2))
    assert seen.dtype == np.float32
    assert 0.0 <= seen.min() < seen.max() <= 1.0


def test_a_mix_holds_every_returned_frame_and_equal_classes(digits: Splits) -> None:
    returned = digits.test.take(np.flatnonzero(digits.test.y < 3)[:60])
    mixed = balanced_mix(digits.train, returned, 0)
    extra = mixed.take(np.arange(len(digits.train), len(mixed)))
    assert rows(extra) == rows(returned)
    counts = np.bincount(extra.y)
    assert counts.min() == counts.max()
    assert abs(len(extra) - len(digits.train)) < 3


def test_the_whole_story_of_the_bad_camera(digits: Splits, int8_model: bytes) -> None:
    def right(model: LitertModel, data: Labelled) -> float:
        return float((model.run({"image": data.x})["scores"].argmax(1) == data.y).mean())

    field = Labelled(bad_camera(digits.test.x, 100), digits.test.y)
    old = LitertModel(int8_model)
    assert right(old, digits.test) >= 0.95
    assert right(old, field) < 0.6
    order = np.random.default_rng(0).permutation(len(field))
    returned, rest = field.take(order[:120]), field.take(order[120:])
    weights = train(balanced_mix(digits.train, returned, 0), 0)
    assert accuracy(weights, rest) >= 0.85
    assert accuracy(weights, digits.test) >= 0.95


def test_the_recipe_in_the_repository_is_the_one_that_is_written(recipe_folder: Path) -> None:
    kept = (REPOSITORY / "firmware_bundles" / "digits" / "bundle.toml").read_text()
    assert kept == (recipe_folder / "bundle.toml").read_text()


def test_a_retrained_recipe_is_calibrated_with_the_returned_samples_too(digits: Splits, tmp_path: Path) -> None:
    returned = Labelled(bad_camera(digits.test.x[:120], 3), digits.test.y[:120])
    prepare.prepare(tmp_path / "again", 0, returned)
    with np.load(tmp_path / "again" / "calibration.npz") as data:
        assert len(data["x"]) == 320
    assert 'returned_samples = "120"' in (tmp_path / "again" / "bundle.toml").read_text()


def test_a_folder_that_cannot_be_made_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert prepare.main(["--out", str(tmp_path / "file" / "digits")]) == 1
    assert "cannot write" in capsys.readouterr().err
