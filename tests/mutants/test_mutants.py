"""Each mutant, which lacks one check, makes the tests fail that are named for it; the sound program passes them all.

A mutant is a copy of the package that the check is in, put before the real one. The tests run in a process of their
own, which says from where it took the module.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutant import Mutant
from mutants import MUTANTS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = {"dsops": ROOT / "core", "dsops_agent": ROOT / "agent", "dsops_controller": ROOT / "controller"}
DEADLINE_S = 300.0
WITNESS = """
import json, os, sys

failed = []


def pytest_collection_modifyitems(items):
    cases = tuple(json.loads(os.environ["WITNESS_CASES"]))
    items[:] = [item for item in items if not cases or item.nodeid.startswith(cases)]


def pytest_runtest_logreport(report):
    if report.failed:
        failed.append(report.nodeid)


def pytest_sessionfinish(session):
    names = os.environ["WITNESS_MODULES"].split()
    found = {name: getattr(sys.modules.get(name), "__file__", None) for name in names}
    with open(os.environ["WITNESS_FILE"], "w") as file:
        json.dump({"failed": failed, "modules": found, "tests": session.testscollected}, file)
"""


@dataclass(frozen=True)
class Run:
    """What a run of tests came to: pytest's exit code, the tests that failed, and the files of the asked modules."""

    code: int
    failed: tuple[str, ...]
    modules: dict[str, str | None]
    tests: int
    output: str


def place_of(file: str) -> tuple[str, Path]:
    """Return the package that a mutant's file is in, and the package's folder."""
    parts = Path(file).parts
    package = parts[0] if parts[0] not in ("core", "agent", "controller") else parts[1]
    if package in PACKAGES:
        return package, PACKAGES[package] / package
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return package, Path(found.origin).parent


def inside(file: str) -> Path:
    """Return a mutant's file relative to the folder that holds its package."""
    path = Path(file)
    return path.relative_to(path.parts[0]) if path.parts[0] in ("core", "agent", "controller") else path


def module_of(file: str) -> str:
    return ".".join(inside(file).with_suffix("").parts)


def copy_package(file: str, folder: Path) -> None:
    package, source = place_of(file)
    if not (folder / package).exists():
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def mutate(mutant: Mutant, folder: Path) -> None:
    """Copy the package into ``folder`` and take the check out there."""
    copy_package(mutant.file, folder)
    path = folder / inside(mutant.file)
    text = path.read_text()
    assert text.count(mutant.before) == 1, (
        f"{mutant.name}: {mutant.before!r} is in {mutant.file} {text.count(mutant.before)} times"
    )
    path.write_text(text.replace(mutant.before, mutant.after))


def run(folder: Path, modules: Iterable[str], tests: Iterable[str], cases: Iterable[str] = ()) -> Run:
    """Run tests on the packages in ``folder``; with ``cases`` only those whose names begin so."""
    (folder / "mutant_witness.py").write_text(WITNESS)
    said = folder / "witness.json"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "WITNESS_MODULES": " ".join(modules),
        "WITNESS_FILE": str(said),
        "WITNESS_CASES": json.dumps(list(cases)),
    }
    options = [
        "-q",
        "-p",
        "mutant_witness",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(folder / "tmp"),
        "-o",
        "addopts=",
    ]
    command = [sys.executable, "-m", "pytest", *options, "--import-mode=importlib", *tests]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert said.is_file(), ended.stdout + ended.stderr
    result = json.loads(said.read_text())
    return Run(ended.returncode, tuple(result["failed"]), result["modules"], result["tests"], ended.stdout)


def named_tests(mutants: Iterable[Mutant]) -> list[str]:
    """Return the tests that are named for mutants, without the cases of parametrized ones."""
    return sorted({killer.partition("[")[0] for mutant in mutants for killer in mutant.killers})


def judged(mutant: Mutant, folder: Path) -> Run:
    mutate(mutant, folder)
    return run(folder, [module_of(mutant.file)], named_tests([mutant]), mutant.killers)


def test_the_sound_program_passes_every_test_that_a_mutant_must_fail(tmp_path: Path) -> None:
    for mutant in MUTANTS:
        copy_package(mutant.file, tmp_path)
    modules = sorted({module_of(mutant.file) for mutant in MUTANTS})
    sound = run(tmp_path, modules, named_tests(MUTANTS))
    assert (sound.code, sound.failed) == (0, ()), sound.output
    assert sound.tests >= len(named_tests(MUTANTS))
    assert_from(tmp_path, sound)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fails_the_tests_that_are_named_for_it(
    mutant: Mutant, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result = judged(mutant, tmp_path_factory.mktemp("mutants"))
    survived = [killer for killer in mutant.killers if not any(test.startswith(killer) for test in result.failed)]
    assert survived == [], result.output
    assert result.code == 1, result.output
    assert all(path and "/mutants" in path for path in result.modules.values()), result.modules


def assert_from(folder: Path, result: Run) -> None:
    """Assert that every module that was asked for came from a folder."""
    assert all(path and Path(path).is_relative_to(folder) for path in result.modules.values()), result.modules


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
