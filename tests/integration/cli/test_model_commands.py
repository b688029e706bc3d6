"""``dsops model``: from a model file to a recipe, to a build that passes its gate or does not."""

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dsops_controller.cli import progress
from dsops_controller.demo.digits import LABELS

pytestmark = pytest.mark.integration

Offline = Callable[..., Any]
PROGRAM = [sys.executable, "-m", "dsops_controller.cli.app"]
STEPS = ["read", "convert", "parity", "evaluate int8", "profile int8", "golden inputs int8", "write"]


@pytest.fixture(scope="module")
def started(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, labels and data, as an ML engineer has them."""
    folder = tmp_path_factory.mktemp("started")
    shutil.copy(recipe / "model.onnx", folder / "digits.onnx")
    (folder / "labels.txt").write_text("\n".join(LABELS))
    with np.load(recipe / "evaluation.npz") as data:
        np.savez(folder / "data.npz", x=data["x"][:200], y=data["y"][:200])
    return folder


@pytest.fixture(scope="module")
def first(started: Path) -> Path:
    """A recipe that `dsops model init` wrote."""
    options = ["--labels", str(started / "labels.txt"), "--data", str(started / "data.npz"), "-o", "json"]
    command = [*PROGRAM, "model", "init", str(started / "digits.onnx"), "--to", str(started / "r"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["needed"] == []
    toml = started / "r" / "bundle.toml"
    toml.write_text(toml.read_text().replace("[evaluate]\n", "[evaluate]\nmeasure = false\n"))
    return started / "r"


def failing(first: Path, folder: Path) -> Path:
    shutil.copytree(first, folder)
    toml = folder / "bundle.toml"
    toml.write_text(toml.read_text().replace("[gate]\n", "[gate]\nmax_size_bytes = 100\n"))
    return folder


def test_a_recipe_that_was_written_builds(offline: Offline, first: Path, tmp_path: Path) -> None:
    done = offline("model", "build", first, "--to", tmp_path / "out", "--variant", "int8")
    assert done.code == 0, done.err
    steps = [line.partition(" (")[0] for line in done.err.splitlines()]
    assert [step for step in steps if step in STEPS] == STEPS
    assert done.err.splitlines()[-1].startswith(f"report: {tmp_path / 'out' / 'report.html'}; next: dsops bundle build")
    assert "int8" in done.out
    assert "pass" in done.out
    assert "float32" not in done.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_json_holds_the_figures_and_nothing_else_is_said(offline: Offline, first: Path, tmp_path: Path) -> None:
    (tmp_path / "s.md").write_text("# before\n")
    words = ("model", "build", first, "--to", tmp_path / "out", "--variant", "float32", "--summary", tmp_path / "s.md")
    done = offline(*words, "-o", "json")
    assert (done.code, done.err) == (0, "")
    (variant,) = done.result["variants"]
    assert (variant["name"], variant["passed"], variant["agreement"]) == ("float32", True, 1.0)
    assert {verdict["key"] for verdict in variant["gate"]} >= {"max_accuracy_drop", "min_agreement"}
    page = (tmp_path / "s.md").read_text()
    assert page.startswith("# before\n## digits passes its gate\n")
    assert "| float32 | min_agreement | 1 | \\>= 0.97 | pass |" in page


def test_a_gate_that_refuses(offline: Offline, first: Path, tmp_path: Path) -> None:
    folder = failing(first, tmp_path / "r")
    out = tmp_path / "out"
    refused = offline("model", "build", folder, "--to", out, "--summary", tmp_path / "s.md", "-o", "json")
    assert (refused.code, refused.error["code"]) == (7, "model.accuracy_gate")
    assert refused.result["passed"] is False
    assert "int8: max_size_bytes" in refused.error["why"]
    assert "float32: max_size_bytes" in refused.error["why"]
    assert not out.exists()
    assert f"report: {tmp_path / 'out.failed' / 'report.html'}" in refused.err
    assert "digits does not pass its gate" in (tmp_path / "s.md").read_text()
    assert "**FAIL**" in (tmp_path / "s.md").read_text()


def test_what_is_wrong_is_said_before_the_work(offline: Offline, first: Path, tmp_path: Path) -> None:
    for words, code in (
        (("build", first, "--to", tmp_path / "o", "--variant", "int4"), 2),
        (("build", first, "--to", tmp_path / "o", "--summary", tmp_path / "none" / "s"), 2),
        (("build", first, "--to", first), 6),
        (("init", first / "model.onnx", "--to", first), 6),
        (("init", first / "data.npz", "--to", tmp_path / "i"), 2),
        (("init", tmp_path / "none.onnx", "--to", tmp_path / "i"), 2),
        (("init", "models:/digits", "--to", tmp_path / "i"), 2),
        (("show", first / "labels.txt"), 2),
        (("lint", first / "none.tflite"), 2),
        (("lint", first / "model.onnx"), 7),
    ):
        refused = offline("model", *words, "-o", "json")
        assert (refused.code, refused.out) == (code, ""), (words, refused.err)
    assert list(tmp_path.iterdir()) == []


def test_init_says_what_comes_next(offline: Offline, started: Path, tmp_path: Path) -> None:
    done = offline("model", "init", started / "digits.onnx", "--to", tmp_path / "r")
    assert done.code == 0
    needed = [line for line in done.err.splitlines() if line.startswith("needed: ")]
    assert [line.split()[1] for line in needed] == ["calibration.npz:", "evaluation.npz:", "labels.txt:"]
    assert f'write data: np.savez("{tmp_path / "r" / "evaluation.npz"}", x=frames, y=truth)' in done.err
    assert done.err.splitlines()[-1] == f"next: dsops model build {tmp_path / 'r'} --to built"


def test_show_and_lint(offline: Offline, first: Path, built: Path) -> None:
    shown = offline("model", "show", first / "model.onnx")
    assert shown.code == 0
    assert "outputs.scores.activation  softmax" in shown.out
    sound = offline("model", "lint", built / "float.tflite", "-o", "json")
    assert (sound.code, sound.result["lint"]) == (0, "sound")
    assert {use["name"] for use in sound.result["operators"]} >= {"CONV_2D", "SOFTMAX"}


def test_ctrl_c_leaves_nothing(first: Path, tmp_path: Path) -> None:
    command = [*PROGRAM, "model", "build", str(first), "--to", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("evaluate int8"):
                break
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bars_on_a_terminal(first: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "model", "build", str(first), "--to", str(tmp_path / "out"), "--variant", "float32"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # the other end has closed
                break
            if not piece:
                break
            shown += piece
        out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b" not in out
    text = shown.decode()
    assert "evaluate float32" in text
    assert "200/200" in text


def test_bars_are_full_when_their_step_is_over() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with progress.shown(wanted=True, console=console) as told:
        told.step("one", 4)
        told.advance(2)
        told.step("two [not markup]")
        told.advance()
    assert isinstance(console.file, io.StringIO)
    one, two = [line for line in console.file.getvalue().splitlines() if "\N{CHECK MARK}" in line][-2:]
    assert "4/4" in one
    assert "two [not markup]" in two
    assert "1/1" in two


def test_nothing_is_shown_when_nothing_is_wanted() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with progress.shown(wanted=False, console=console) as told:
        told.step("one", 4)
        told.advance()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
