"""The wheel is built without a network and holds the three packages, whole, and nothing else."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"dsops": "core", "dsops_agent": "agent", "dsops_controller": "controller"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def read_metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (member,) = [m for m in wheel.namelist() if m.endswith(f".dist-info/{name}")]
    return wheel.read(member).decode()


def test_top_level_holds_only_the_three_packages(wheel: zipfile.ZipFile) -> None:
    top = {member.split("/")[0] for member in wheel.namelist()}
    assert {name for name in top if not name.endswith((".dist-info", ".data"))} == set(PACKAGES)


def test_what_a_device_is_set_up_with_comes_to_share(wheel: zipfile.ZipFile) -> None:
    on_disk = {path.name for path in (ROOT / "agent/packaging").iterdir()}
    shared = {member.partition(".data/data/share/dsops/")[2] for member in wheel.namelist() if ".data/" in member}
    assert shared == on_disk
    assert "dsops-agent.service" in shared


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_whole(wheel: zipfile.ZipFile, package: str) -> None:
    base = ROOT / PACKAGES[package]
    on_disk = {
        path.relative_to(base).as_posix()
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {member for member in wheel.namelist() if member.split("/")[0] == package}
    assert f"{package}/py.typed" in packed
    assert packed == on_disk


def test_entry_points_are_those_of_pyproject(wheel: zipfile.ZipFile) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(read_metadata(wheel, "entry_points.txt"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dict(parser["console_scripts"]) == project["scripts"] != {}


@pytest.mark.parametrize("script", ["dsops", "dsops-agent"])
def test_installed_script_resolves(script: str) -> None:
    (entry,) = entry_points(group="console_scripts", name=script)
    assert callable(entry.load())


def test_metadata_names_licence_and_python(wheel: zipfile.ZipFile) -> None:
    metadata = Parser().parsestr(read_metadata(wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Apache License" in read_metadata(wheel, "licenses/LICENSE")
