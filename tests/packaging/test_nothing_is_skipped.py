"""No folder is passed over in silence: tools skip some names by default (`build`, `dist`), which may be ours."""

from __future__ import annotations

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
