"""Asks the device's runtime which operators it knows, in a process of its own; answers are kept while it stays."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from dsops.errors import RuntimeCrashed, from_dict
from dsops.needs import parse_operator
from dsops_agent.host import runtime_version
from dsops_agent.install.ports import Support
from dsops_agent.runtime_process import describe_exit, runtime_environment

TIMEOUT_S = 60.0
"""A slow board takes seconds to load the runtime."""


@dataclass(frozen=True)
class Accelerated:
    """The delegate of the inference process, as that one tells; without a name there is none."""

    name: str = ""
    operators: frozenset[str] = frozenset()
    problem: str = ""

    @classmethod
    def of(cls, told: object) -> "Accelerated":
        """Return what a status tells; what makes no sense is no delegate."""
        if not isinstance(told, dict) or not isinstance(told.get("name"), str):
            return cls()
        operators = told.get("operators")
        named = frozenset(map(str, operators)) if isinstance(operators, list) else frozenset[str]()
        return cls(told["name"], named, str(told.get("problem", "")))

    @property
    def usable(self) -> tuple[str, ...]:
        """The delegate's name, if models can use it."""
        return (self.name,) if self.name and not self.problem else ()

    def brings(self, operator: str) -> bool:
        """Return whether an operator, as a manifest names it, is one of the delegate's."""
        name, _, is_custom = parse_operator(operator)
        return bool(self.usable) and is_custom and name in self.operators


class OperatorQuery:
    """Runs ``python -m dsops_agent.runtime.supports`` for operators that it was not asked about yet.

    Args:
        installed: Names the runtime that is installed: answers of another one are forgotten.
    """

    def __init__(self, installed: Callable[[], str] = runtime_version) -> None:
        self._installed = installed
        self._lock = threading.Lock()
        self._of = ""
        self._runtime: Support | None = None
        self._known: dict[str, bool] = {}

    def ask(self, operators: tuple[str, ...]) -> Support:
        """Return the runtime, and which of the operators it does not know.

        Raises:
            RuntimeCrashed: The process died, took too long, or said nothing that makes sense.
            RuntimeMissing: There is no runtime.
        """
        with self._lock:
            installed = self._installed()
            if installed != self._of:
                self._of, self._runtime, self._known = installed, None, {}
            unknown = tuple(name for name in operators if name not in self._known)
            if unknown or self._runtime is None:
                self._runtime = found = _run(unknown)
                self._known |= {name: name not in found.missing for name in unknown}
            missing = tuple(name for name in operators if not self._known[name])
            return Support(self._runtime.runtime, self._runtime.version, missing)


def _run(operators: tuple[str, ...]) -> Support:
    command = [sys.executable, "-m", "dsops_agent.runtime.supports", *operators]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT_S,
            env=runtime_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeCrashed("the runtime did not say in time what it knows", why=f"{TIMEOUT_S:g} s") from error
    if done.returncode:
        raise RuntimeCrashed("the process that asked the runtime died", why=describe_exit(done.returncode))
    return _parsed(done.stdout)


def _parsed(output: bytes) -> Support:
    try:
        answer = json.loads(output.splitlines()[-1])
        if answer["ok"]:
            return Support(str(answer["runtime"]), str(answer["version"]), tuple(map(str, answer["missing"])))
        problem = dict(answer["error"])
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise RuntimeCrashed("the process that asked the runtime said nothing that makes sense") from error
    raise from_dict(problem)
