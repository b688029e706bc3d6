import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from dsops.errors import AccuracyGateFailed, Conflict, InvalidConfig, InvalidInput, InvalidModel
from dsops.golden import GoldenSet
from dsops.profile import Profile
from dsops_controller.build.conversion.convert import convert_onnx
from dsops_controller.build.recipe import build_model
from dsops_controller.build.recipe_file import read_labels, read_recipe
from dsops_controller.build.record import BuildRecord


class Steps:
    """Notes which steps began."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def step(self, name: str, total: int | None = None) -> None:
        self.names.append(name)

    def advance(self, units: int = 1) -> None:
        pass


@pytest.fixture
def folder(recipe_folder: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(recipe_folder, tmp_path / "digits"))
    edit(folder, "[gate]", "[evaluate]\nmeasure = false\n\n[gate]")
    return folder


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "bundle.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_build_leaves_all_that_packaging_needs(built: Path) -> None:
    each = {"model.tflite", "profile.json", "golden.bin"}
    assert set(contents(built)) == {
        "build.json",
        "float.tflite",
        "report.json",
        "report.html",
        "shared/reading.json",
        *(f"{variant}/{name}" for variant in ("int8", "float32") for name in each),
    }
    record = BuildRecord.read(built)
    assert (record.model, record.task, len(record.labels)) == ("digits", "classification", 10)
    int8, float32 = record.variants
    assert int8.compatibility.hardware == ("x86_64", "aarch64")
    assert int8.metrics["accuracy"] >= int8.metrics["float_accuracy"] - 0.01
    assert float32.metrics["agreement"] == 1.0
    assert int8.metrics["bytes"] < float32.metrics["bytes"] / 2
    assert set(record.lineage.datasets) == {"calibration", "evaluation", "profile", "golden"}
    assert record.preprocessing[0].model_dump(exclude_defaults=True) == {
        "input": "image",
        "layout": "NHWC",
        "color": "GRAY",
        "scale": (0.0625,),
    }
    assert Profile.decode((built / "int8" / "profile.json").read_bytes()).n_ref == 500
    assert len(GoldenSet.decode((built / "int8" / "golden.bin").read_bytes())) == 32


def test_the_report_compares_every_variant_and_tells_the_parity(built: Path) -> None:
    report = json.loads((built / "report.json").read_bytes())
    assert [variant["name"] for variant in report["variants"]] == ["int8", "float32"]
    assert report["passed"] is True
    assert report["parity"]["largest_relative"] <= 1e-5
    assert b"<html" in (built / "report.html").read_bytes()


def test_equal_inputs_give_equal_files_and_the_source_stays(built: Path, folder: Path, tmp_path: Path) -> None:
    edit(folder, "[evaluate]\nmeasure = false\n\n", "")
    before = contents(folder)
    steps = Steps()
    result = build_model(folder / "bundle.toml", tmp_path / "out", steps)
    assert steps.names[:2] == ["read", "convert"]
    assert steps.names[-1] == "write"
    assert result.record.model == "digits"
    again, first = contents(tmp_path / "out"), contents(built)
    for name in set(first) - {"report.json", "report.html"}:  # these tell what this machine is like
        assert again[name] == first[name], name
    assert contents(folder) == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"digits", "out"}


def test_one_variant_can_be_built_alone(folder: Path, tmp_path: Path) -> None:
    edit(folder, "count = 32", "count = 8")
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("an earlier report")
    assert [entry.variant for entry in build_model(folder, out, only=["int8"]).record.variants] == ["int8"]
    assert b"earlier" not in (out / "report.json").read_bytes()
    assert len(GoldenSet.decode((out / "int8" / "golden.bin").read_bytes())) == 8
    with pytest.raises(InvalidInput, match="has no variant 'int4'"):
        build_model(folder, out, only=["int4"])


def test_a_folder_that_is_not_a_build_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(Conflict, match="not a build"):
        build_model(folder, tmp_path / "mine")
    with pytest.raises(Conflict):
        build_model(folder, folder)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"


def test_the_recipe_is_never_replaced(built: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "report.json").write_text("{}")
    with pytest.raises(Conflict, match="holds the recipe"):
        build_model(folder, folder)
    out = Path(shutil.copytree(built, tmp_path / "out"))
    inside = Path(shutil.copytree(folder, out / "recipe"))
    with pytest.raises(Conflict, match="holds the recipe"):
        build_model(inside, out)
    with pytest.raises(Conflict, match="not a build"):  # an earlier build, and something of somebody's beside it
        build_model(folder, out)
    assert (out / "recipe" / "model.onnx").is_file()


def test_a_link_to_a_folder_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    build_model(folder, tmp_path / "link", only=["float32"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "build.json").is_file()


def test_the_comparison_is_told_before_the_gate_judges_it(folder: Path, tmp_path: Path) -> None:
    edit(folder, "[variant.float32]", "[variant.float32]\ngate = { min_accuracy = 0.999 }")
    told: list[object] = []
    with pytest.raises(AccuracyGateFailed):
        build_model(folder, tmp_path / "out", only=["float32"], on_report=told.append)
    assert len(told) == 1


def test_a_payload_of_another_model_is_refused_also_when_it_cannot_run_here(folder: Path, tmp_path: Path) -> None:
    weights = np.eye(4, dtype=np.float32)
    constant = helper.make_tensor("w", 1, (4, 4), weights.ravel())
    ends = [helper.make_tensor_value_info(name, 1, (1, 4)) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "m", ends[:1], ends[1:], [constant])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (folder / "other.tflite").write_bytes(convert_onnx(other.SerializeToString()))
    edit(folder, "[variant.float32]", '[variant.npu]\npayload = "other.tflite"\nmeasured_as = "int8"')
    with pytest.raises(InvalidModel, match="has other inputs than the source model"):
        build_model(folder, tmp_path / "out")


def test_a_small_profile_is_refused_before_anything_is_built(folder: Path, tmp_path: Path) -> None:
    with np.load(folder / "reference.npz") as data:
        np.savez(folder / "few.npz", x=data["x"][:100])
    edit(folder, 'profile = "reference.npz"', 'profile = "few.npz"')
    steps = Steps()
    with pytest.raises(InvalidInput, match=r"the profile data few\.npz has 100 frames"):
        build_model(folder, tmp_path / "out", steps)
    assert steps.names == ["read", "convert"]


def test_scales_that_do_not_fit_the_channels_are_refused(folder: Path, tmp_path: Path) -> None:
    edit(folder, "scale = 0.0625", "scale = [0.1, 0.2, 0.3]")
    with pytest.raises(InvalidConfig, match=r"preprocessing\.scale has 3 numbers"):
        build_model(folder, tmp_path / "out")


def test_a_refused_build_keeps_the_earlier_one_and_says_why_beside_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("an earlier report")
    edit(folder, "[variant.float32]", "[variant.float32]\ngate = { min_accuracy = 0.999 }")
    with pytest.raises(AccuracyGateFailed, match=r"float32: min_accuracy: 0\.9\d+, allowed >= 0\.999") as caught:
        build_model(folder, out, only=["float32"])
    assert (out / "report.json").read_text() == "an earlier report"
    assert set(contents(tmp_path / "out.failed")) == {"report.json", "report.html"}
    assert caught.value.details["report"] == str(tmp_path / "out.failed" / "report.html")
    assert json.loads((tmp_path / "out.failed" / "report.json").read_bytes())["passed"] is False
    edit(folder, "min_accuracy = 0.999", "min_accuracy = 0.9")
    build_model(folder, out, only=["float32"])
    assert {entry.name for entry in tmp_path.iterdir()} == {"digits", "out"}


def test_a_ready_made_payload_is_compared_like_any_other(built: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copy(built / "int8" / "model.tflite", folder / "ready.tflite")
    edit(folder, "[variant.float32]", '[variant.mine]\npayload = "ready.tflite"')
    record = build_model(folder, tmp_path / "out").record
    mine, int8 = record.variant("mine"), record.variant("int8")
    assert mine.mode == "ready-made"
    assert mine.metrics == int8.metrics
    assert mine.files == int8.files


def test_a_payload_that_cannot_run_here_takes_its_figures_from_another(
    built: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(built / "float.tflite", folder / "compiled.tflite")
    edit(folder, "[variant.float32]", '[variant.npu]\npayload = "compiled.tflite"\nmeasured_as = "int8"')
    result = build_model(folder, tmp_path / "out")
    npu = result.record.variant("npu")
    assert npu.measured_as == "int8"
    assert npu.metrics == result.record.variant("int8").metrics
    assert "not run here" in result.report.variants[1].notes[0]
    assert (tmp_path / "out" / "npu" / "model.tflite").read_bytes() == (built / "float.tflite").read_bytes()


WRONG_KEYS = {
    "unknown key": ("[golden]", "[golden]\ncolour = 1", "unknown key golden.colour in", ""),
    "unknown section": ("[golden]", "[telemetry]\na = 1\n[golden]", "unknown key telemetry in", ""),
    "missing key": ('evaluation = "evaluation.npz"', "", "missing key data.evaluation in", ""),
    "no calibration": ('calibration = "calibration.npz"', "", "", "variant int8 needs data.calibration"),
    "wrong mode": (
        "[variant.int8]",
        '[variant.int8]\nquantize = "int4"',
        "wrong value of variant.int8.quantize in",
        "",
    ),
    "no mode": ("[variant.int8]", "[variant.small]", "", "variant small needs quantize"),
    "two origins": (
        "[variant.int8]",
        '[variant.int8]\nquantize = "int8"\npayload = "x.tflite"',
        "wrong value of variant.int8 in",
        "not both",
    ),
    "wrong stand-in": (
        "[variant.float32]",
        '[variant.npu]\npayload = "x.tflite"\nmeasured_as = "tpu"',
        "",
        "variant npu cannot be measured as tpu",
    ),
    "wrong name": ('name = "digits"', 'name = "Digits!"', "wrong value of model.name in", ""),
    "wrong share": ("min_agreement = 0.97", "min_agreement = 97", "wrong value of gate.min_agreement in", ""),
    "wrong share of a variant": (
        "[variant.int8]",
        "[variant.int8]\ngate = { min_agreement = 97 }",
        "bundle.toml",
        "min_agreement",
    ),
    "way out": ('source = "model.onnx"', 'source = "../model.onnx"', "wrong value of model.source in", "leads out"),
    "half a signature": (
        'source = "model.onnx"',
        'source = "model.onnx"\nsignature = "model.sig"',
        "wrong value of model in",
        "belong together",
    ),
    "not toml": ("[model]", "[model", "is not TOML", ""),
    "a runtime that is no version": (
        "[variant.float32]",
        '[variant.float32]\nmin_litert = "banana"',
        "wrong value of variant.float32.min_litert in",
        "",
    ),
    "hardware that is no name": (
        "[variant.float32]",
        '[variant.float32]\nhardware = ["a b"]',
        "wrong value of variant.float32.hardware",
        "",
    ),
    "a variant with a build's own name": (
        "[variant.float32]",
        '[variant.shared]\nquantize = "float32"',
        "",
        "a variant cannot be named 'shared'",
    ),
    "a file with a bundle's own name": (
        '"reading.json" =',
        '"model.tflite" =',
        "",
        "a file cannot be named 'model.tflite'",
    ),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_a_wrong_recipe_names_key_and_file(folder: Path, name: str) -> None:
    old, new, what, why = WRONG_KEYS[name]
    edit(folder, old, new)
    with pytest.raises(InvalidConfig) as caught:
        read_recipe(folder)
    assert what in caught.value.what
    assert why in caught.value.why
    assert "bundle.toml" in caught.value.what


def test_a_folder_without_a_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"cannot read .*bundle.toml"):
        read_recipe(tmp_path)


LABEL_LIST = 'labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'


def test_labels_may_stand_in_a_file(folder: Path) -> None:
    edit(folder, LABEL_LIST, 'labels = "labels.txt"')
    with pytest.raises(InvalidConfig, match=r"labels.txt"):
        read_labels(read_recipe(folder), folder)
    (folder / "labels.txt").write_bytes("\ufeffzero\none\r\ntwo\n".encode())
    assert read_labels(read_recipe(folder), folder) == ("zero", "one", "two")


@pytest.mark.parametrize(("labels", "said"), [('["a"]', "has 1 labels"), ('["a", "a"]', "'a'"), ('["a", ""]', "''")])
def test_labels_must_tell_scores_apart(folder: Path, labels: str, said: str) -> None:
    edit(folder, LABEL_LIST, f"labels = {labels}")
    with pytest.raises(InvalidConfig, match=said):
        read_labels(read_recipe(folder), folder)


def test_labels_that_do_not_match_the_output_are_refused_first(folder: Path, tmp_path: Path) -> None:
    edit(folder, LABEL_LIST, 'labels = ["a", "b", "c"]')
    steps = Steps()
    with pytest.raises(InvalidModel, match="3 labels for an output of shape"):
        build_model(folder, tmp_path / "out", steps)
    assert steps.names == ["read", "convert"]


def test_preprocessing_of_an_input_that_there_is_not_is_refused(folder: Path, tmp_path: Path) -> None:
    edit(folder, "[preprocessing]", "[preprocessing.picture]")
    with pytest.raises(InvalidConfig, match="names the input 'picture'"):
        build_model(folder, tmp_path / "out")


Arrays = dict[str, np.ndarray]


def spoiled(x: np.ndarray) -> np.ndarray:
    wrong = x.copy()
    wrong[3, 2, 1] = np.nan
    return wrong


WRONG_ARRAYS: dict[str, Callable[[np.ndarray, np.ndarray], Arrays]] = {
    "pickle": lambda x, y: {"x": np.array([object()], dtype=object), "y": y},
    "empty": lambda x, y: {"x": x[:0], "y": y[:0]},
    "labels of another length": lambda x, y: {"x": x, "y": y[:-1]},
    "a label too large": lambda x, y: {"x": x, "y": y + 1},
    "not finite": lambda x, y: {"x": spoiled(x), "y": y},
    "another shape": lambda x, y: {"x": x[:, :7], "y": y},
    "another type": lambda x, y: {"x": x.astype(np.float64), "y": y},
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_a_wrong_array_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    with np.load(folder / "evaluation.npz") as data:
        arrays = WRONG_ARRAYS[name](data["x"], data["y"])
    np.savez(folder / "evaluation.npz", **arrays)
    with pytest.raises(InvalidInput, match=r"evaluation"):
        build_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut short", b"x,y\n1,2\n", b""])
def test_a_file_that_is_no_archive_is_refused(folder: Path, tmp_path: Path, content: bytes) -> None:
    (folder / "evaluation.npz").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"evaluation"):
        build_model(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluation_data_without_truth_only_compares_the_models(folder: Path, tmp_path: Path) -> None:
    with np.load(folder / "evaluation.npz") as data:
        x = data["x"]
    np.savez(folder / "evaluation.npz", x=x)
    with pytest.raises(InvalidConfig, match="max_accuracy_drop"):
        build_model(folder, tmp_path / "out")
    edit(folder, "max_accuracy_drop = 0.01\n", "")
    record = build_model(folder, tmp_path / "out", only=["int8"]).record
    assert "accuracy" not in record.variants[0].metrics
    assert record.variants[0].metrics["agreement"] >= 0.97


@pytest.mark.parametrize("name", ["reading.json", "calibration.npz"])
def test_a_file_that_is_named_and_absent_is_said_at_once(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    steps = Steps()
    with pytest.raises(InvalidInput, match=name):
        build_model(folder, tmp_path / "out", steps)
    assert steps.names == ["read"]
