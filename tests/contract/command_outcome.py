"""Runs commands of ``dsops`` in this process, and keeps what they left."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dsops_controller.cli import app


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error of a command that was asked for JSON."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])
        return found


def runner(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs a command."""

    def run(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = app.run([str(word) for word in words])
        printed = capsys.readouterr()
        return Outcome(int(code), printed.out, printed.err)

    return run
