"""The GitHub Action: its script runs as a runner would run it, and its description names what the script uses."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsops_controller.demo.prepare import prepare

ACTION = Path(__file__).parents[2] / "controller/packaging/github-action"
SCRIPT = ACTION / "build.sh"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("action") / "my digits"
    prepare(folder, seed=1)
    toml = folder / "bundle.toml"
    assert "[evaluate]" not in toml.read_text()
    toml.write_text(toml.read_text() + "\n[evaluate]\nmeasure = false\n")  # the script is tested here, not the machine
    return folder


def run(recipe: Path | str, folder: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run the script with the files that a runner gives it."""
    for name in ("output", "summary"):
        (folder / name).touch()
    given = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "RUNNER_TEMP": str(folder),
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        "DSOPS_RECIPE": str(recipe),
        "DSOPS_RELEASE": "",
        "DSOPS_VARIANTS": "",
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", str(SCRIPT)]
    return subprocess.run(command, env=given | settings, cwd=folder, capture_output=True, text=True, check=False)


def outputs(folder: Path) -> dict[str, Path]:
    lines = (folder / "output").read_text().splitlines()
    return {name: Path(value) for name, _, value in (line.partition("=") for line in lines)}


def test_a_build_that_passes_is_packed(recipe: Path, tmp_path: Path) -> None:
    done = run(recipe, tmp_path, DSOPS_RELEASE="3", DSOPS_VARIANTS="int8")
    assert done.returncode == 0, done.stderr
    found = outputs(tmp_path)
    assert [path.name for path in found["bundles"].iterdir()] == ["digits-3-int8.bundle"]
    assert (found["build"] / "report.html").is_file()
    assert found["out"] in found["build"].parents
    assert (tmp_path / "summary").read_text().startswith("## digits passes its gate")


@pytest.mark.slow
def test_a_gate_that_refuses_fails_the_job_and_keeps_the_report(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    shutil.copytree(recipe, folder)
    toml = folder / "bundle.toml"
    toml.write_text(re.sub(r"^\[gate\]$", "[gate]\nmax_size_bytes = 100", toml.read_text(), flags=re.MULTILINE))
    done = run(folder, tmp_path, DSOPS_RELEASE="3")
    assert done.returncode == 7, done.stderr
    found = outputs(tmp_path)
    assert list(found) == ["out"]
    assert sorted(path.name for path in found["out"].glob("*/*")) == ["report.html", "report.json"]
    assert "**FAIL**" in (tmp_path / "summary").read_text()


def test_settings_are_never_run(tmp_path: Path) -> None:
    harm = f"$(touch {tmp_path}/harm); touch {tmp_path}/harm #"
    assert run(harm, tmp_path, DSOPS_VARIANTS="* `true`", DSOPS_RELEASE=harm).returncode == 2
    assert not (tmp_path / "harm").exists()
    assert run("", tmp_path).returncode == 1


def test_the_description_fits_the_script() -> None:
    text = (ACTION / "action.yml").read_text()
    declared, _, steps = text.partition("\nruns:\n")
    inputs, _, outputs_part = declared.partition("\noutputs:\n")
    names = re.findall(r"^  ([a-z-]+):$", inputs.partition("\ninputs:\n")[2], re.MULTILINE)
    assert set(names) == set(re.findall(r"\$\{\{ inputs\.([a-z-]+) \}\}", steps))
    written = set(re.findall(r"printf '(\w+)=", SCRIPT.read_text()))
    assert set(re.findall(r"steps\.build\.outputs\.(\w+)", text)) == written
    assert set(re.findall(r"^  ([a-z-]+):$", outputs_part, re.MULTILINE)) < written
    used = set(re.findall(r"DSOPS_\w+", SCRIPT.read_text()))
    assert used == set(re.findall(r"^        (DSOPS_\w+):", steps, re.MULTILINE)) - {"DSOPS_PACKAGE"}
    # an input is only ever data in the environment, never text of a script
    scripts = re.findall(r"^      run: (.*)$", steps, re.MULTILINE)
    assert len(scripts) == 2
    assert all("${{" not in script for script in scripts)
    assert os.access(SCRIPT, os.X_OK)
