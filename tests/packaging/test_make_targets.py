"""`make help` tells the truth, and the set-up scripts refuse in one line what they cannot use."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "tools").glob("*.sh"))


def make(*arguments: str) -> str:
    # Run from a test that make started: its variables must not reach this make.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def targets() -> set[str]:
    (line,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return set(line.split())


def test_help_lists_every_target_with_a_sentence() -> None:
    listed = dict(re.findall(r"^  (\S+)\s+(\S.*)$", make("help"), re.MULTILINE))
    assert set(listed) == targets()


def test_every_target_is_declared() -> None:
    rules = re.findall(r"^([a-z-]+):(?!=).*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(rules) == targets()


def test_help_is_what_make_does_when_asked_nothing() -> None:
    assert make() == make("help")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(("script", "variable"), [("tools/broker.sh", "DSOPS_MOSQUITTO"), ("tools/venv.sh", "PYTHON")])
def test_unusable_choice_is_refused_in_one_line(script: str, variable: str, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    chosen.write_text("#!/bin/sh\necho 'mosquitto version 1.6.9'\n")
    chosen.chmod(0o755)
    environment = os.environ | {variable: str(chosen)}
    refused = subprocess.run([ROOT / script], env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert f"{variable}={chosen} is not a" in refused.stderr


def test_broker_of_choice_is_the_one_named(tmp_path: Path) -> None:
    chosen = tmp_path / "mosquitto"
    chosen.write_text("#!/bin/sh\necho 'mosquitto version 2.1.0'\nexit 3\n")
    chosen.chmod(0o755)
    command = [ROOT / "tools/broker.sh", "--path"]
    environment = os.environ | {"DSOPS_MOSQUITTO": str(chosen)}
    named = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (named.stdout, named.stderr) == (f"{chosen}\n", "")
