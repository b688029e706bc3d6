"""Raw frames: the device makes of them, to the last bit, what the build evaluated, profiled and proved the model on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.bundle import Bundle, encode_bundle, file_digest
from dsops.errors import GoldenMismatch, InvalidConfig, InvalidInput
from dsops.golden import GoldenSet
from dsops.manifest import Manifest
from dsops_agent.runtime import oip
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.golden import check_golden
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.data import Sensing, read_data
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.recipe import build_model
from dsops_controller.build.record import BuildRecord

ZOOM = 3
SECTION = """[preprocessing]
raw = "UINT8"
color = "GRAY"
raw_color = "RGB"
resize = "crop"
interpolation = "area"
"""


def raw_of(real: np.ndarray, bars: int) -> np.ndarray:
    """The camera's picture of a digit: bytes, three times as large, in colours, with bars beside it."""
    large = np.repeat(np.repeat((real * 16).astype(np.uint8), ZOOM, axis=1), ZOOM, axis=2)
    wide = np.pad(large, ((0, 0), (0, 0), (bars, bars), (0, 0)))
    return np.repeat(wide, 3, axis=3)


@pytest.fixture(scope="module")
def folder(recipe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(recipe_folder, tmp_path_factory.mktemp("raw") / "digits"))
    for number, file in enumerate(sorted(folder.glob("*.npz"))):
        with np.load(file) as archive:
            arrays = dict(archive)
        arrays["x"] = raw_of(arrays["x"], number)
        np.savez(file, **arrays)
    path = folder / "bundle.toml"
    text = path.read_text().replace('[preprocessing]\ncolor = "GRAY"\n', SECTION)
    path.write_text(text.replace("[gate]", "[evaluate]\nmeasure = false\n\n[gate]\nmin_accuracy = 0.9"))
    return folder


@pytest.fixture(scope="module")
def build(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw_build") / "digits"
    build_model(folder, out, only=("int8",))
    return out


@pytest.fixture(scope="module")
def bundle(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw_bundle") / "digits.dsb"
    build_bundle(build, 1, path)
    return path


def load(path: Path) -> ServedModel:
    return load_bundle(Bundle.open(path), file_digest(path)[0], 1)


def request(frames: np.ndarray, form: str = "") -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="digits")
    message.inputs.add(name="image", datatype="UINT8", shape=frames.shape)
    message.raw_input_contents.append(frames.tobytes())
    if form:
        message.parameters["form"].string_param = form
    return message


def test_the_device_makes_the_inputs_of_the_build_to_the_last_bit(folder: Path, build: Path, bundle: Path) -> None:
    entry = BuildRecord.read(build)
    sensing = Sensing({section.input: section for section in entry.preprocessing})
    served = load(bundle)
    for file in sorted(folder.glob("*.npz")):
        data = read_data(file, entry.variants[0].inputs, "the data", needs_truth=False, sensing=sensing)
        assert data.raw["image"].dtype == np.uint8
        for start in range(0, 40, 8):
            frames = data.raw["image"][start : start + 8]
            made = served.prepared(oip.decode_inputs(request(frames), served))["image"]
            assert made.dtype == np.float32
            assert made.tobytes() == data.inputs["image"][start : start + 8].tobytes()


def test_the_device_answers_raw_frames_as_the_build_did(folder: Path, build: Path, bundle: Path) -> None:
    entry = BuildRecord.read(build)
    sensing = Sensing({section.input: section for section in entry.preprocessing})
    data = read_data(folder / "evaluation.npz", entry.variants[0].inputs, "the data", needs_truth=True, sensing=sensing)
    few = data.rows(slice(0, 64))
    expected = LitertModel((build / "int8" / "model.tflite").read_bytes()).run(few.inputs)
    served = load(bundle)
    answer = served.infer(served.prepared(oip.decode_inputs(request(few.raw["image"]), served)))
    assert answer.outputs[0].tobytes() == next(iter(expected.values())).tobytes()
    assert (answer.choices == few.y).mean() > 0.9


def test_pictures_of_any_size_are_fitted(bundle: Path) -> None:
    served = load(bundle)
    for height, width in ((8, 8), (1, 1), (100, 7), (480, 640)):
        frames = np.full((2, height, width, 3), 7, np.uint8)
        assert served.prepared(oip.decode_inputs(request(frames), served))["image"].shape == (2, 8, 8, 1)


FAULTS: dict[str, dict[str, object]] = {
    "half as bright": {"scale": (0.5 / 16,)},
    "twice as bright": {"scale": (2.0 / 16,)},
    "white for black": {"scale": (-1.0 / 16,), "offset": (1.0,)},
    "centred on zero": {"scale": (2.0 / 16,), "offset": (-1.0,)},
    "squeezed": {"resize": "stretch"},
    "with a border": {"resize": "letterbox"},
}
"""Preprocessing as other trainings have it."""


@pytest.mark.parametrize("fault", FAULTS)
def test_golden_inputs_are_raw_so_that_another_preprocessing_is_found_out(
    bundle: Path, tmp_path: Path, fault: str
) -> None:
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    assert GoldenSet.decode(opened.read(manifest.golden)).raw == ("image",)
    section = manifest.preprocessing[0].model_copy(update=FAULTS[fault])
    other = Manifest.model_validate(manifest.model_copy(update={"preprocessing": (section,)}).model_dump())
    path = tmp_path / "other.dsb"
    path.write_bytes(encode_bundle(other, {blob.name: opened.read(blob.name) for blob in manifest.blobs}))
    with pytest.raises(GoldenMismatch):
        check_golden(load(path))


def test_a_clean_device_is_accepted_a_hundred_times_of_a_hundred(bundle: Path) -> None:
    served = [load(bundle) for _ in range(10)]
    assert [len(check_golden(one)) for one in served for _ in range(10)] == [32] * 100


def test_real_and_stored_values_are_taken_as_before(bundle: Path) -> None:
    served = load(bundle)
    real = np.zeros((1, 8, 8, 1), np.float32)
    message = pb.ModelInferRequest(model_name="digits")
    message.inputs.add(name="image", datatype="FP32", shape=real.shape)
    message.raw_input_contents.append(real.tobytes())
    assert oip.decode_inputs(message, served)["image"].values.dtype == np.float32
    message.parameters["form"].string_param = "raw"
    with pytest.raises(InvalidInput, match="datatype UINT8"):
        oip.decode_inputs(message, served)


def test_metadata_tells_every_form(bundle: Path) -> None:
    told = oip.describe(load(bundle))
    assert (told.inputs[0].datatype, list(told.inputs[0].shape)) == ("FP32", [-1, 8, 8, 1])
    assert told.properties["image.forms"] == (
        "real FP32 [n, 8, 8, 1]; stored INT8 [n, 8, 8, 1]; raw UINT8 [n, height, width, 3]"
    )


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('raw = "UINT8"\n', "", "raw does not say"),
        ('color = "GRAY"', 'color = "RGB"', "RGB has 3 channels"),
        ('resize = "crop"\n', "", "belong together"),
        ('interpolation = "area"', 'interpolation = "area"\nlayout = "NCHW"', "GRAY has 1 channels"),
    ],
)
def test_preprocessing_that_cannot_be_done_is_refused_before_data_is_read(
    folder: Path, tmp_path: Path, old: str, new: str, text: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "digits"))
    recipe = copy / "bundle.toml"
    recipe.write_text(recipe.read_text().replace(old, new, 1))
    with pytest.raises(InvalidConfig, match=text):
        build_model(copy, tmp_path / "out")


def test_data_that_is_neither_raw_nor_real_is_refused(folder: Path, build: Path, tmp_path: Path) -> None:
    entry = BuildRecord.read(build)
    sensing = Sensing({section.input: section for section in entry.preprocessing})
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 24, 24, 1), np.uint8))
    with pytest.raises(InvalidInput, match=r"height, width, 3"):
        read_data(tmp_path / "x.npz", entry.variants[0].inputs, "the data", needs_truth=False, sensing=sensing)
