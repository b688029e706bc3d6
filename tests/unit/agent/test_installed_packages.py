"""Which version of a package is installed: the same that importlib.metadata says, without what that loads."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsops_agent.host import runtime_version
from dsops_agent.installed import recorded, version_of


def record(folder: Path, name: str, version: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy\nVersion: {version}\n")


@pytest.mark.parametrize("name", ["ai-edge-litert", "grpcio", "paho-mqtt", "numpy"])
def test_it_says_what_the_record_says(name: str) -> None:
    package = name.replace("-", "_")
    assert recorded(package, sys.path) == importlib.metadata.version(name)


def test_the_runtime_has_a_name_and_a_version() -> None:
    assert runtime_version() == f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"


def test_what_is_not_installed_has_no_version() -> None:
    assert version_of("tflite-none") == ""


def test_another_name_that_begins_alike_is_another_package(tmp_path: Path) -> None:
    record(tmp_path, "toy_extra-3.0.dist-info", "3.0")
    (tmp_path / "toy-1").mkdir()
    assert recorded("toy", [str(tmp_path)]) == ""


def test_the_first_folder_counts_and_what_is_no_folder_does_not(tmp_path: Path) -> None:
    record(tmp_path / "first", "Toy-1.5+local.dist-info", "1.5+local")
    record(tmp_path / "second", "toy-2.0.dist-info", "2.0")
    (tmp_path / "archive.zip").write_bytes(b"")
    folders = [str(tmp_path / name) for name in ("archive.zip", "away", "first", "second")]
    assert recorded("toy", folders) == "1.5+local"


def test_a_package_that_was_recorded_in_another_way_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other_toy.py").write_text("")
    (tmp_path / "other_toy.egg-info").write_text("Metadata-Version: 1.1\nName: other-toy\nVersion: 4.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert version_of("other-toy") == "4.2"


def test_a_module_without_any_record_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lone_toy.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert version_of("lone-toy") == ""


def test_to_look_for_the_runtime_loads_no_reader_of_records() -> None:
    code = (
        "import sys\nsys.argv[0] = '-m'\nfrom dsops_agent.host import runtime_version\nassert runtime_version()\n"
        "from dsops_agent.runtime.litert import find_runtime\nfind_runtime()\n"
        "assert 'email.message' not in sys.modules and 'zipfile' not in sys.modules, sorted(sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert ended.returncode == 0, ended.stderr
