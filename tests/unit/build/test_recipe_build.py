import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dsops.errors import AccuracyGateFailed, Conflict, DsopsError, InvalidConfig, InvalidInput, InvalidModel
from dsops.golden import GoldenSet
from dsops.profile import Profile
from dsops_controller.build.recipe import STEPS, build_model
from dsops_controller.build.recipe_file import read_labels, read_recipe
from dsops_controller.build.record import BuildRecord


@pytest.fixture
def folder(recipe_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recipe_folder, tmp_path / "digits"))


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "bundle.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_build_leaves_all_that_packaging_needs(built: Path) -> None:
    assert {entry.name for entry in built.iterdir()} == {
        "model.tflite",
        "float.tflite",
        "profile.json",
        "golden.bin",
        "report.json",
        "build.json",
    }
    record = BuildRecord.read(built)
    assert (record.model, record.variant, len(record.labels)) == ("digits", "int8", 10)
    assert record.compatibility.hardware == ("x86_64", "aarch64")
    assert record.metrics["int8_accuracy"] >= record.metrics["float_accuracy"] - 0.01
    assert set(record.lineage.datasets) == {"calibration", "evaluation", "profile", "golden"}
    assert Profile.decode((built / "profile.json").read_bytes()).n_ref == 500
    assert len(GoldenSet.decode((built / "golden.bin").read_bytes()).labels) == 32
    assert json.loads((built / "report.json").read_bytes())["agreement"] >= 0.97


def test_equal_inputs_give_equal_files_and_the_source_stays(built: Path, folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    steps: list[str] = []
    result = build_model(folder / "bundle.toml", tmp_path / "out", steps.append)
    assert steps == list(STEPS)
    assert result.as_dict()["model"] == "digits"
    for path in built.iterdir():
        if path.name != "report.json":  # it holds latencies
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"digits", "out"}


def test_an_earlier_build_is_replaced_whole(built: Path, folder: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(built, tmp_path / "out"))
    (out / "left-over").write_text("old")
    edit(folder, "count = 32", "count = 8")
    build_model(folder, out)
    assert not (out / "left-over").exists()
    assert len(GoldenSet.decode((out / "golden.bin").read_bytes()).labels) == 8


def test_a_folder_that_is_not_a_build_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(Conflict, match="not a build"):
        build_model(folder, tmp_path / "mine")
    with pytest.raises(Conflict):
        build_model(folder, folder)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_a_failed_build_leaves_nothing_and_keeps_the_earlier_one(built: Path, folder: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(built, tmp_path / "out"))
    before = (out / "build.json").read_bytes()
    edit(folder, "min_agreement = 0.97", "min_agreement = 1.0")
    with pytest.raises(AccuracyGateFailed):
        build_model(folder, out)
    assert (out / "build.json").read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"digits", "out"}


WRONG_KEYS = {
    "unknown key": ("[profile]", "[profile]\ncolour = 1", "unknown key profile.colour in"),
    "unknown section": ("[profile]", "[telemetry]\na = 1\n[profile]", "unknown key telemetry in"),
    "missing key": ('calibration = "calibration.npz"', "", "missing key quantize.calibration in"),
    "wrong mode": ('mode = "int8"', 'mode = "int4"', "wrong value of quantize.mode in"),
    "wrong name": ('name = "digits"', 'name = "Digits!"', "wrong value of model.name in"),
    "wrong share": ("min_agreement = 0.97", "min_agreement = 97", "wrong value of evaluate.min_agreement in"),
    "not toml": ("[model]", "[model", "is not TOML"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_a_wrong_recipe_names_key_and_file(folder: Path, name: str) -> None:
    old, new, said = WRONG_KEYS[name]
    edit(folder, old, new)
    with pytest.raises(InvalidConfig) as caught:
        read_recipe(folder)
    assert said in caught.value.what
    assert "bundle.toml" in caught.value.what


def test_a_folder_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"cannot read .*bundle.toml"):
        read_recipe(tmp_path)


LABEL_LIST = 'labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'


def test_labels_may_stand_in_a_file(folder: Path) -> None:
    edit(folder, LABEL_LIST, 'labels = "labels.txt"')
    with pytest.raises(InvalidConfig, match=r"labels.txt"):
        read_labels(read_recipe(folder), folder)
    (folder / "labels.txt").write_text("zero\none\ntwo\n")
    assert read_labels(read_recipe(folder), folder) == ("zero", "one", "two")


@pytest.mark.parametrize(("labels", "said"), [('["a"]', "has 1 labels"), ('["a", "a"]', "'a'"), ('["a", ""]', "''")])
def test_labels_must_tell_scores_apart(folder: Path, labels: str, said: str) -> None:
    edit(folder, LABEL_LIST, f"labels = {labels}")
    with pytest.raises(InvalidConfig, match=said):
        read_labels(read_recipe(folder), folder)


def test_labels_that_do_not_match_the_output_are_refused_first(folder: Path, tmp_path: Path) -> None:
    edit(folder, LABEL_LIST, 'labels = ["even", "odd"]')
    steps: list[str] = []
    with pytest.raises(InvalidModel, match="a model whose output does not match its labels"):
        build_model(folder, tmp_path / "out", steps.append)
    assert steps == ["read", "convert"]


def break_data(folder: Path, name: str) -> None:
    path = folder / "evaluation.npz"
    with np.load(path) as data:
        x, y = data["x"], data["y"]
    if name == "no labels":
        np.savez(path, x=x)
    elif name == "pickle":
        np.savez(path, x=np.array([object()], dtype=object), y=y)
    elif name == "short":
        path.write_bytes(path.read_bytes()[:300])
    elif name == "text":
        path.write_text("x,y\n1,2\n")
    elif name == "absent":
        path.unlink()
    elif name == "labels of another length":
        np.savez(path, x=x, y=y[:-1])


@pytest.mark.parametrize("name", ["no labels", "pickle", "short", "text", "absent", "labels of another length"])
def test_a_wrong_data_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    break_data(folder, name)
    with pytest.raises(InvalidInput, match=r"evaluation") as caught:
        build_model(folder, tmp_path / "out")
    assert isinstance(caught.value, DsopsError)
    assert not (tmp_path / "out").exists()
