"""One trained network and one recipe folder for all tests of the build side."""

import sys
from pathlib import Path

import pytest

from dsops_controller.build.conversion.convert import convert_onnx
from dsops_controller.build.data import DataSet
from dsops_controller.build.quantization.quantize import QuantMode, quantize
from dsops_controller.build.recipe import build_model
from dsops_controller.demo import prepare
from dsops_controller.demo.digits import Splits, splits

sys.path.insert(0, str(Path(__file__).parent))  # holds tflite_graphs, which several tests share

SEED = 0


@pytest.fixture(scope="session")
def digits() -> Splits:
    return splits(SEED)


@pytest.fixture(scope="session")
def recipe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "digits"
    prepare.prepare(folder, SEED)
    return folder


@pytest.fixture(scope="session")
def built(recipe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "digits"
    build_model(recipe_folder, folder)
    return folder


@pytest.fixture(scope="session")
def float_model(recipe_folder: Path) -> bytes:
    return convert_onnx((recipe_folder / "model.onnx").read_bytes())


@pytest.fixture(scope="session")
def int8_model(float_model: bytes, digits: Splits) -> bytes:
    return quantize(float_model, QuantMode.INT8, DataSet({"image": digits.calibration.x[:100]})).data
