"""No folder is passed over in silence: tools skip some names by default (`build`, `dist`), which may be ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("core", "agent", "controller", "tests", "benchmarks", "firmware_bundles")
GENERATED = ROOT / "core/dsops/api"


def test_every_test_folder_is_collected(pytestconfig: pytest.Config) -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    skipped_names = pytestconfig.getini("norecursedirs")
    passed_over = [
        str(folder.relative_to(ROOT))
        for folder in sorted(folders)
        if any(fnmatch(part, name) for part in folder.relative_to(ROOT).parts for name in skipped_names)
    ]
    assert passed_over == []


def test_every_source_is_linted() -> None:
    written = {path for root in SOURCES for path in (ROOT / root).rglob("*.py") if not path.is_relative_to(GENERATED)}
    ruff = Path(sys.executable).with_name("ruff")
    listed = subprocess.run([ruff, "check", "--show-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    linted = {Path(line) for line in listed.stdout.splitlines()}
    assert sorted(str(path.relative_to(ROOT)) for path in written - linted) == []


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_no_source_is_ignored_by_git() -> None:
    folders = sorted({str(path.parent) for root in SOURCES for path in (ROOT / root).rglob("*.py")})
    command = ["git", "check-ignore", "--no-index", "--stdin"]
    asked = subprocess.run(command, cwd=ROOT, input="\n".join(folders), capture_output=True, text=True, check=False)
    if asked.returncode == 128:
        pytest.skip("not a git checkout")
    assert asked.stdout == ""


CI = ROOT / ".ci/run"


@pytest.mark.skipif(not CI.exists(), reason="a source distribution has no CI script")
def test_ci_runs_all_of_the_fault_harness() -> None:
    """What the harness lacks makes it fail there: strace and the makers of file systems are installed before."""
    script = CI.read_text(encoding="utf-8")
    installed, ran = script.partition("FAULTS_REQUIRED=1")[::2]
    assert "make faults" in ran
    for package in ("strace", "xfsprogs", "e2fsprogs"):
        assert package in installed


def test_what_the_fault_harness_lacks_is_named_or_fails(tmp_path: Path) -> None:
    """On a machine without strace the kill points are skipped by name; where they are required they fail."""
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/faults/test_kill_points.py", "-k"]
    command += ["commit and SIGKILL"]
    bare = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    skipped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=bare, check=False)
    assert "FAULTS NOT RUN: strace is not installed" in skipped.stdout
    assert (skipped.returncode, "1 skipped" in skipped.stdout) == (0, True)
    required = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=bare | {"FAULTS_REQUIRED": "1"}, check=False
    )
    assert "FAULTS REQUIRED: strace is not installed" in required.stdout
    assert required.returncode == 1


@pytest.mark.skipif(not CI.exists(), reason="a source distribution has no CI script")
def test_ci_tries_a_device_with_tflite_runtime() -> None:
    made, ran = CI.read_text(encoding="utf-8").partition("TFLITE_REQUIRED=1")[::2]
    assert "make tflite" in made
    assert ran.startswith(" make test-slow")


@pytest.mark.slow
def test_an_older_runtime_that_is_not_there_is_named_or_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/integration/runtime/test_older_runtime.py", "-k"]
    command += ["operators"]
    without = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DSOPS_TFLITE_PYTHON": str(tmp_path / "python")}
    skipped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=without, check=False)
    assert "TFLITE-RUNTIME NOT TRIED: " in skipped.stdout
    assert (skipped.returncode, "1 skipped" in skipped.stdout) == (0, True)
    required = without | {"TFLITE_REQUIRED": "1"}
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=required, check=False)
    assert "TFLITE REQUIRED: " in failed.stdout
    assert failed.returncode == 1


@pytest.mark.skipif(not CI.exists(), reason="a source distribution has no CI script")
def test_ci_builds_the_example_in_cpp() -> None:
    """It installs what the example's Makefile says that one installs."""
    made, ran = CI.read_text(encoding="utf-8").partition("CPP_REQUIRED=1")[::2]
    assert "make test-slow" in ran
    said = (ROOT / "examples/cpp/Makefile").read_text(encoding="utf-8").splitlines()[0]
    packages = said.partition("apt install ")[2].split()
    assert "libgrpc++-dev" in packages
    assert [name for name in packages if name not in made.split()] == []


def test_a_compiler_that_is_not_there_is_named_or_fails(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "tests/integration/runtime/test_inference_examples.py"]
    command += ["-k", "cpp"]
    bare = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    skipped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=bare, check=False)
    assert "C++ EXAMPLE NOT BUILT: g++, make, pkg-config, protoc, grpc_cpp_plugin not installed" in skipped.stdout
    assert (skipped.returncode, "1 skipped" in skipped.stdout) == (0, True)
    required = bare | {"CPP_REQUIRED": "1"}
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=required, check=False)
    assert "C++ REQUIRED: g++, make" in failed.stdout
    assert failed.returncode == 1
