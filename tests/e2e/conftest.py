"""A whole fleet in processes of its own: mosquitto, the controller, two agents with their runtimes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_stage import Fleet, raised

from dsops_controller.build.recipe import build_model
from dsops_controller.demo.prepare import prepare

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "runtime"))  # models that break


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model, trained and quantized once for all tests."""
    folder = tmp_path_factory.mktemp("model")
    prepare(folder / "recipe", seed=7)
    build_model(folder / "recipe", folder / "built")
    return folder / "built"


@pytest.fixture
def fleet(short_path: Path, built: Path) -> Iterator[Fleet]:
    """A fleet whose two devices are enrolled and online; everything is stopped afterwards."""
    stage = Fleet(short_path, built)
    with raised(stage):
        yield stage
