"""Runs the real command line, as a person would, and shows each command."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsops import errors
from dsops.errors import DsopsError

Json = Any


@dataclass
class Commands:
    """``dsops ...`` in processes of their own, in one folder, with one context file.

    ``show`` is given each command as a person in that folder would type it.
    """

    folder: Path
    context: Path
    show: Callable[[str], None]

    def run(self, *arguments: str | Path, online: bool = False) -> Json:
        """Run a command and return what it prints as JSON, or None when it prints nothing.

        Args:
            arguments: Noun, verb and the rest.
            online: Whether the command talks to the controller.

        Raises:
            DsopsError: The command failed; the error is the one that it named.
        """
        words = [self._short(argument) for argument in arguments]
        self.show("dsops " + shlex.join(words))
        if online:
            words += ["--context", self._short(self.context)]
        command = [sys.executable, "-m", "dsops_controller.cli.app", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=self.folder
        )
        if done.returncode:
            raise _error(done)
        return json.loads(done.stdout) if done.stdout.lstrip().startswith(("{", "[")) else None

    def _short(self, argument: str | Path) -> str:
        is_inside = isinstance(argument, Path) and argument.is_relative_to(self.folder)
        return str(Path(argument).relative_to(self.folder)) if is_inside else str(argument)


def _error(done: subprocess.CompletedProcess[str]) -> DsopsError:
    lines = done.stderr.strip().splitlines()
    try:
        return errors.from_dict(json.loads(lines[-1]))
    except (ValueError, IndexError):
        return DsopsError(f"a command ended with {done.returncode}", why=" | ".join(lines[-4:]))
