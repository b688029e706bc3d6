"""A recipe that is written by looking at a model: readable for every family, and never written over another."""

import io
import json
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_families
import pytest
from onnx import TensorProto, helper

from dsops.errors import Conflict, DsopsError, InvalidInput, InvalidModel, UnsupportedModel
from dsops.manifest import Postprocessing, Task, TensorSpec
from dsops_controller.build.authoring.embedded import Embedded, parse_labels, read_onnx_facts, read_tflite_facts
from dsops_controller.build.authoring.init import Initiated, Wishes, guess_task, init_recipe, write_recipe
from dsops_controller.build.authoring.inspection import Inspection, Tensors, inspect_model
from dsops_controller.build.authoring.recipe_text import Draft, render_recipe, savez_line
from dsops_controller.build.recipe_file import read_labels, read_recipe
from dsops_controller.demo.digits import LABELS, Splits

QUICK = {
    "autoencoder": Task.RECONSTRUCTION,
    "yolo_head": Task.OTHER,
    "two_inputs": Task.CLASSIFICATION,
}


def write(model: onnx.ModelProto, path: Path) -> str:
    path.write_bytes(model.SerializeToString())
    return str(path)


def initiated(source: str, folder: Path, wishes: Wishes | None = None) -> Initiated:
    """Write a recipe; the model is one of ours, and looked at in this process."""
    path = Path(source)
    return write_recipe(inspect_model(path, apart=False), path, source, folder, wishes or Wishes())


def arrays(model: Path) -> dict[str, np.ndarray]:
    """Return data of the right shapes for a model's inputs."""
    inputs = inspect_model(model, apart=False).tensors.inputs
    kinds = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
    found = {spec.name: np.ones((4, *spec.shape[1:]), kinds[spec.datatype]) for spec in inputs}
    return {"x": found.popitem()[1]} if len(found) == 1 else found


@pytest.mark.parametrize("family", onnx_families.FAMILIES)
def test_every_family_gets_a_recipe(family: str, tmp_path: Path) -> None:
    source = write(onnx_families.FAMILIES[family](), tmp_path / "net.onnx")
    done = initiated(source, tmp_path / "r")
    recipe = read_recipe(tmp_path / "r")
    assert recipe.model.name == "net"
    assert list(recipe.variant) == ["int8", "float32"]
    assert recipe.model.task is QUICK.get(family, recipe.model.task)
    assert done.inspection.tensors.outputs
    assert "# needed: " in done.recipe.read_text()
    assert (tmp_path / "r" / "model.onnx").read_bytes() == Path(source).read_bytes()


@pytest.mark.parametrize("family", QUICK)
def test_data_as_the_recipe_describes_it_is_accepted(family: str, tmp_path: Path) -> None:
    source = write(onnx_families.FAMILIES[family](), tmp_path / "net.onnx")
    np.savez(tmp_path / "d.npz", **arrays(tmp_path / "net.onnx"))
    initiated(source, tmp_path / "r", Wishes(data=tmp_path / "d.npz"))
    assert read_recipe(tmp_path / "r").data.evaluation == "data.npz"


def test_what_is_given_is_filled_in(recipe_folder: Path, digits: Splits, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=digits.reference.x, y=digits.reference.y)
    (tmp_path / "l.txt").write_text("\n".join(LABELS))
    wishes = Wishes(name="ten-digits", labels=tmp_path / "l.txt", data=tmp_path / "d.npz")
    done = init_recipe(str(recipe_folder / "model.onnx"), tmp_path / "r", wishes)
    recipe = read_recipe(tmp_path / "r")
    assert done.needed == ()
    assert (recipe.model.name, recipe.model.task) == ("ten-digits", Task.CLASSIFICATION)
    assert read_labels(recipe, tmp_path / "r") == tuple(LABELS)
    assert recipe.postprocessing == Postprocessing()  # the network ends in a softmax
    assert set(recipe.data.files().values()) == {"data.npz"}
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "bundle.toml",
        "data.npz",
        "labels.txt",
        "model.onnx",
    ]


def test_files_of_the_folder_stay_where_they_are(recipe_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    (folder / "nets").mkdir(parents=True)
    (folder / "nets" / "best.onnx").write_bytes((recipe_folder / "model.onnx").read_bytes())
    initiated(str(folder / "nets" / "best.onnx"), folder)
    assert read_recipe(folder).model.source == "nets/best.onnx"
    assert sorted(path.name for path in folder.iterdir()) == ["bundle.toml", "nets"]


def test_nothing_is_written_over(recipe_folder: Path, tmp_path: Path) -> None:
    source, folder = str(recipe_folder / "model.onnx"), tmp_path / "r"
    folder.mkdir()
    (folder / "bundle.toml").write_text("mine")
    with pytest.raises(Conflict):
        initiated(source, folder)
    (folder / "bundle.toml").unlink()
    (folder / "model.onnx").write_text("another")
    with pytest.raises(Conflict):
        initiated(source, folder)
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("model.onnx", "another")]
    initiated(source, folder, Wishes(force=True))
    assert (folder / "model.onnx").read_bytes() == (recipe_folder / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "error", "culprit"),
    [
        (lambda folder: Wishes(labels=text(folder / "l.txt", "a\nb\n")), InvalidInput, "l.txt"),
        (lambda folder: Wishes(labels=text(folder / "l.txt", "a\na\n")), InvalidInput, "l.txt"),
        (lambda folder: Wishes(labels=folder / "none.txt"), InvalidInput, "none.txt"),
        (lambda folder: Wishes(name="Not A Name"), InvalidInput, "name"),
        (lambda folder: Wishes(task=Task.RECONSTRUCTION), InvalidModel, "reconstruction"),
        (lambda folder: Wishes(data=npz(folder / "d.npz", x=np.ones((3, 9, 9, 1), np.float32))), InvalidInput, "d.npz"),
        (lambda folder: Wishes(data=npz(folder / "d.npz", y=np.ones(3))), InvalidInput, "d.npz"),
        (lambda folder: Wishes(data=text(folder / "d.npz", "PK")), InvalidInput, "d.npz"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    spoil: Callable[[Path], Wishes], error: type[DsopsError], culprit: str, recipe_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        initiated(str(recipe_folder / "model.onnx"), tmp_path / "r", spoil(tmp_path))
    assert culprit in str(caught.value)
    assert not (tmp_path / "r").exists()


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def npz(path: Path, **content: np.ndarray) -> Path:
    np.savez(path, **content)
    return path


def relu(output: str, operator: str = "Relu", **facts: str) -> onnx.ModelProto:
    """Return a network [1, 4] -> [1, 4] of one operator."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("in", output)]
    graph = helper.make_graph([helper.make_node(operator, ["in"], [output], name="n")], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, facts)
    return model


def test_a_model_that_cannot_be_built_is_refused_and_its_operators_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no external converter
    source = write(relu("out", "Det"), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedModel, match="Det"):
        init_recipe(source, tmp_path / "r")
    assert not (tmp_path / "r").exists()
    found = inspect_model(Path(source), apart=False)
    assert (found.unsupported, found.converter, found.as_dict()["can_be_built"]) == (("Det",), "", False)
    assert [spec.shape for spec in found.tensors.inputs] == [(1, 4)]


def test_what_the_file_says_is_believed_when_it_fits(tmp_path: Path) -> None:
    facts = {"labels": '["a", "b", "c", "d"]', "license": "MIT", "author": 'A "B"\n C', "description": "d\x7f\\é"}
    source = write(relu("out", "Softmax", **facts), tmp_path / "m.onnx")
    initiated(source, tmp_path / "r")
    recipe = read_recipe(tmp_path / "r")
    assert (recipe.model.license, recipe.model.description) == ("MIT", "d\x7f\\é")
    assert recipe.lineage.facts == {"author": 'A "B" C'}
    assert read_labels(recipe, tmp_path / "r") == ("a", "b", "c", "d")
    other = write(relu("out", "Softmax", labels="a,b,c"), tmp_path / "n.onnx")
    initiated(other, tmp_path / "s")
    assert read_labels(read_recipe(tmp_path / "s"), tmp_path / "s") == ()


def test_names_in_a_model_cannot_write_keys() -> None:
    name = 'x"]\n[files]\n"a" = 1 # \x7f'
    spec = TensorSpec(name=name, datatype="FP32", shape=(1, 2))
    both = (spec, spec.model_copy(update={"name": "b"}))
    draft = Draft("m", "model.onnx", Task.OTHER, both, both, description='"""', author=name)
    found = tomllib.loads(render_recipe(draft))
    assert found["files"] == {}
    assert set(found["preprocessing"]) == {name, "b"}
    assert found["lineage"]["facts"] == {"author": name}


def test_the_line_that_writes_data_is_python(tmp_path: Path) -> None:
    specs = [TensorSpec(name=name, datatype="FP32", shape=(1, 2)) for name in ("left", "a/b:0")]
    line = savez_line(specs, Task.CLASSIFICATION, str(tmp_path / "d.npz"))
    exec(line, {"np": np, "frames_of_1": np.zeros(1), "frames_of_2": np.ones(1), "truth": np.ones(1)})
    with np.load(tmp_path / "d.npz") as written:
        assert {name: written[name].tolist() for name in written.files} == {"left": [0], "a/b:0": [1], "y": [1]}


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ('["cat", "dog"]', ("cat", "dog")),
        ("{0: 'cat', 1: \"dog's\"}", ("cat", "dog's")),
        ('{"1": "dog", "0": "cat"}', ("cat", "dog")),
        ("cat, dog", ("cat", "dog")),
        ("cat\ndog\n", ("cat", "dog")),
        ("{0: 'cat', 2: 'dog'}", ()),
        ("__import__('os').system('true')", ()),
        ("[" * 100_000, ()),
        ('["cat", 3]', ()),
        ("cat,cat", ()),
        ("cat", ()),
        ("x" * (2 << 20), ()),
    ],
)
def test_labels_of_an_onnx_file(written: str, labels: tuple[str, ...]) -> None:
    assert read_onnx_facts(relu("out", names=written).SerializeToString()).labels == labels


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def test_labels_behind_a_tflite_file(float_model: bytes) -> None:
    assert read_tflite_facts(float_model + zipped(labelmap_txt=b"cat\ndog\n")).labels == ("cat", "dog")
    assert read_tflite_facts(float_model + zipped(vocab_txt=b"x\ny\n", labels_txt=b"a\nb")).labels == ("a", "b")
    assert read_tflite_facts(float_model + zipped(labels_txt=b"a\n" * (1 << 20))).labels == ()
    assert read_tflite_facts(float_model + zipped(labels_txt=b"\xff\xfe")).labels == ()
    assert read_tflite_facts(float_model + zipped(labels_txt=b"a\nb")[:-9]).labels == ()
    assert read_tflite_facts(float_model).labels == ()


def test_labels_of_a_text() -> None:
    assert parse_labels("a\r\n b \n") == ("a", "b")
    assert parse_labels("a\n\nb\n") == ()
    assert parse_labels("a\x1b[2J\nb\n") == ()


def test_a_tflite_file_of_one_score(float_model: bytes, int8_model: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(float_model + zipped(labels_txt="\n".join(LABELS).encode()))
    done = initiated(str(tmp_path / "m.tflite"), tmp_path / "r")
    assert read_labels(read_recipe(tmp_path / "r"), tmp_path / "r") == tuple(LABELS)
    assert done.draft.rule == Postprocessing()
    (tmp_path / "q.tflite").write_bytes(int8_model)
    initiated(str(tmp_path / "q.tflite"), tmp_path / "s")
    assert read_recipe(tmp_path / "s").variant["int8"].payload == "model.tflite"


def test_what_is_shown_is_json(recipe_folder: Path) -> None:
    found: Inspection = inspect_model(recipe_folder / "model.onnx", apart=False)
    shown = json.loads(json.dumps(found.as_dict()))
    assert shown["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [1, 8, 8, 1]}]
    assert shown["outputs"][0]["activation"] == "softmax"
    assert (shown["can_be_built"], shown["converter"], shown["operators"]["Conv"]) == (True, "built-in", 2)


def test_texts_that_are_not_utf_8(tmp_path: Path) -> None:
    data = relu("out", license="MIT?").SerializeToString()
    assert read_onnx_facts(data.replace(b"MIT?", b"MIT\xff")).license == "MIT\N{REPLACEMENT CHARACTER}"
    (tmp_path / "m.onnx").write_bytes(data.replace(b"Relu", b"Rel\xff"))
    with pytest.raises(InvalidModel):
        inspect_model(tmp_path / "m.onnx", apart=False)


LABEL_LIKE = np.array([0, 1, 1, 0])
QUANTITIES = np.array([0.5, -1.0, 2.0, 7.5], np.float32)


def ending(output: list[int], operator: str = "") -> Inspection:
    """Return what is seen of a model from [1, 6] to an output, which ends with an activation or none."""
    seen = Tensors(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=(1, 6)),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=tuple(output)),),
        activations=(operator,),
    )
    return Inspection("m.onnx", "onnx", "", 0, {}, 0, Embedded(), seen)


@pytest.mark.parametrize(
    ("model", "y", "task"),
    [
        (ending([1, 4]), QUANTITIES[:, None] * np.ones(4, np.float32), Task.REGRESSION),
        (ending([1, 1]), QUANTITIES, Task.REGRESSION),
        (ending([1, 1], "sigmoid"), QUANTITIES, Task.REGRESSION),
        (ending([1, 6]), np.ones((4, 6), np.float32), Task.REGRESSION),
        (ending([1, 8, 8, 2]), np.ones((4, 8, 8), np.int64), Task.OTHER),
        (ending([1, 4]), np.ones((4, 8, 8), np.float32), Task.OTHER),
        (ending([1, 4]), np.ones((4, 4), np.int64), Task.OTHER),
        (ending([1, 4]), np.array(["a", "b", "a", "b"]), Task.OTHER),
        (ending([1, 4]), LABEL_LIKE, Task.CLASSIFICATION),
        (ending([1, 1]), LABEL_LIKE, Task.CLASSIFICATION),
        (ending([1, 1]), LABEL_LIKE * 30, Task.REGRESSION),
        (ending([1, 6]), LABEL_LIKE, Task.RECONSTRUCTION),
        (ending([1, 6]), LABEL_LIKE * 5, Task.CLASSIFICATION),
        (ending([1, 4], "softmax"), LABEL_LIKE.astype(np.float32), Task.CLASSIFICATION),
        (ending([1, 1]), None, Task.REGRESSION),
        (ending([1, 6]), None, Task.RECONSTRUCTION),
    ],
)
def test_the_truth_says_what_the_task_is(model: Inspection, y: np.ndarray | None, task: Task) -> None:
    assert guess_task(model, y) is task


def test_the_truth_of_the_data_decides_on_the_task(recipe_folder: Path, digits: Splits, tmp_path: Path) -> None:
    data = npz(tmp_path / "d.npz", x=digits.reference.x[:9], y=np.ones((9, 8, 8), np.int64))
    (tmp_path / "l.txt").write_text("\n".join(LABELS), encoding="utf-8-sig")
    wishes = Wishes(data=data, labels=tmp_path / "l.txt")
    assert initiated(str(recipe_folder / "model.onnx"), tmp_path / "r", wishes).draft.task is Task.OTHER
    assert read_labels(read_recipe(tmp_path / "r"), tmp_path / "r") == tuple(LABELS)
