"""Runs the real command line, as a person would, and shows each command."""

import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsops import errors
from dsops.errors import DsopsError
from dsops_controller.demo import leash

Json = Any
POLL_S = 0.1


@dataclass
class Commands:
    """``dsops ...`` in processes of their own, in one folder, with one context file.

    ``show`` is given each command as a person in that folder would type it; ``check`` is called while one runs, and
    raises when there is no sense in waiting for it.
    """

    folder: Path
    context: Path
    show: Callable[[str], None]
    check: Callable[[], None]

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
        words += ["-o", "json"]
        if online:
            words += ["--context", self._short(self.context)]
        said = self._end_of([sys.executable, "-m", "dsops_controller.cli.app", *words])
        return json.loads(said) if said.strip() else None

    def run_on_device(self, *arguments: str | Path) -> str:
        """Run ``dsops-agent ...`` and return what it prints.

        Raises:
            DsopsError: The command failed.
        """
        words = [self._short(argument) for argument in arguments]
        self.show("dsops-agent " + shlex.join(words))
        return self._end_of([sys.executable, "-m", "dsops_agent", *words])

    def _end_of(self, command: list[str]) -> str:
        done = self._wait_for(command)
        if done.returncode:
            raise _error(done)
        return done.stdout

    def _wait_for(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                leash.command(*command), stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=self.folder
            )
            try:
                while process.poll() is None:
                    self.check()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_S)
            finally:
                process.kill()
                process.wait()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())

    def _short(self, argument: str | Path) -> str:
        is_inside = isinstance(argument, Path) and argument.is_relative_to(self.folder)
        return str(Path(argument).relative_to(self.folder)) if is_inside else str(argument)


def _error(done: subprocess.CompletedProcess[str]) -> DsopsError:
    lines = done.stderr.strip().splitlines()
    try:
        return errors.from_dict(json.loads(lines[-1]))
    except (ValueError, IndexError):
        return DsopsError(f"a command ended with {done.returncode}", why=" | ".join(lines[-4:]))
