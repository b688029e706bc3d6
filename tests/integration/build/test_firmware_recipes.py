"""The recipes of firmware_bundles/ as a user prepares and builds them, without a network."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from dsops.needs import needs_of
from dsops_agent.install.preflight import Facts, check
from dsops_agent.operators import OperatorQuery
from dsops_agent.room import HostRoom
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.recipe import build_model
from dsops_controller.build.record import BuildRecord
from dsops_controller.demo.prepare import _recipe

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "firmware_bundles"
FAULTS = ("bright_row", "dead_row", "hot_pixels", "lost_sync", "raised_black", "thermal_noise")


def run_prepare(name: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, RECIPES / name / "prepare.py", "--out", folder, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def prepare(name: str, folder: Path) -> Path:
    done = run_prepare(name, folder)
    assert done.returncode == 0, done.stderr
    return folder


def check_fit(built: Path, hardware: str) -> None:
    """Assert that a device of a class of hardware, with the runtime and the room of this host, refuses no variant."""
    query, room = OperatorQuery(), HostRoom(built)
    for variant in BuildRecord.read(built).variants:
        bundle = built / f"{variant.variant}.bundle"
        manifest = build_bundle(built, 1, bundle, variant.variant)
        needs = needs_of(manifest, bundle.stat().st_size)
        assert needs.operators
        found = query.ask(needs.operators)
        check(needs, Facts(found, frozenset(), needs.contract, room.memory(), room.disk_bytes(), 16 << 20))
    offered = [variant.compatibility.hardware for variant in BuildRecord.read(built).variants]
    assert any(not classes or hardware in classes for classes in offered)


def model_of(built: Path, variant: str) -> LitertModel:
    return LitertModel((built / variant / "model.tflite").read_bytes())


def area_under_curve(sound: np.ndarray, faulty: np.ndarray) -> float:
    """The share of pairs in which the faulty frame scores higher, counted pair by pair."""
    return float((faulty[:, None] > sound[None]).mean() + (faulty[:, None] == sound[None]).mean() / 2)


@pytest.mark.slow
def test_camera_watch_finds_each_fault_in_every_variant(tmp_path: Path) -> None:
    folder, built = prepare("camera-watch", tmp_path / "recipe"), tmp_path / "built"
    report = build_model(folder, built).report
    assert report.passed
    assert [variant.name for variant in report.variants] == ["int8", "int16x8", "weight8"]
    data = np.load(folder / "evaluation.npz")
    check_fit(built, "aarch64")
    for variant in report.variants:
        errors = ((model_of(built, variant.name).run(data["x"]) - data["x"]) ** 2).mean(axis=1)
        assert area_under_curve(errors[data["y"] == 0], errors[data["y"] == 1]) >= 0.94
        for fault in FAULTS:
            own = data["slice.fault"] == fault
            assert area_under_curve(errors[own & (data["y"] == 0)], errors[own & (data["y"] == 1)]) >= 0.85


@pytest.mark.slow
def test_cell_nuclei_reads_rows_as_well_as_its_float_network(tmp_path: Path) -> None:
    folder, built = prepare("cell-nuclei", tmp_path / "recipe"), tmp_path / "built"
    assert build_model(folder, built).report.passed
    check_fit(built, "aarch64")
    data = np.load(folder / "held_out.npz")
    accuracies = {
        variant: float((model_of(built, variant).run(data["x"]).argmax(axis=1) == data["y"]).mean())
        for variant in ("float32", "int8")
    }
    assert accuracies["float32"] >= 0.95
    assert accuracies["int8"] >= accuracies["float32"] - 0.01
    assert (built / "shared" / "scaling.json").read_bytes() == (folder / "scaling.json").read_bytes()


@pytest.mark.slow
def test_digits_are_read_as_well_as_by_the_float_network(tmp_path: Path) -> None:
    folder, built = prepare("digits", tmp_path / "recipe"), tmp_path / "built"
    assert build_model(folder, built).report.passed
    check_fit(built, "x86_64")
    data = np.load(folder / "evaluation.npz")
    assert float((model_of(built, "int8").run(data["x"]).argmax(axis=1) == data["y"]).mean()) >= 0.96


def test_the_recipe_of_digits_is_what_is_written() -> None:
    """The folder's copy is for readers; the demonstration writes its own."""
    assert tomllib.loads((RECIPES / "digits" / "bundle.toml").read_text()) == tomllib.loads(_recipe(0, None))


@pytest.mark.slow
def test_equal_seeds_prepare_equal_files(tmp_path: Path) -> None:
    first, second = (prepare("cell-nuclei", tmp_path / name) for name in ("first", "second"))
    names = sorted(path.name for path in first.iterdir())
    assert "model.onnx" in names
    assert names == sorted(path.name for path in second.iterdir())
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_a_file_that_is_not_the_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elec.csv").write_text("period,nswprice\n0.0,0.1\n")
    done = run_prepare("power-meter", tmp_path / "recipe", "--data", str(tmp_path / "elec.csv"))
    assert done.returncode == 1
    assert "is not the data set" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "recipe").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_prepare("camera-watch", tmp_path / "file" / "recipe")
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
