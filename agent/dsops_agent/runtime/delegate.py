"""Accelerators by configuration: a delegate is a library that takes over operators of a model.

A delegate is foreign code in the process of the models. So it is first made in a throw-away process,
``python -m dsops_agent.runtime.delegate JSON PARENT``: one that refuses, hangs or crashes there is left alone, and the
models run on the processor. That is reported, never hidden.

The library exports ``tflite_plugin_create_delegate`` and ``tflite_plugin_destroy_delegate``, as libedgetpu does
(TensorFlow Lite, "External delegate", ``tensorflow/lite/delegates/external/README.md``).
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dsops.errors import DsopsError
from dsops.manifest import DelegateName, Frozen
from dsops_agent.runtime.lifeline import end_with
from dsops_agent.runtime.litert import find_runtime, load_delegate
from dsops_agent.runtime.own_output import own_output

TIMEOUT_S = 10.0
_MOST_TEXT = 400


class Delegate(Frozen):
    """A delegate that this device shall use.

    Attributes:
        name: What manifests call it, for example ``edgetpu``.
        library: Its shared library, by path or as the loader finds it.
        options: What it is made with.
        operators: Custom operators that it brings, for example ``edgetpu-custom-op``; no others are admitted.
        exclusive: Whether it serves one process at a time: then that is the data process of the champions.
    """

    name: DelegateName
    library: str = Field(min_length=1)
    options: dict[str, str] = Field(default_factory=dict)
    operators: tuple[Annotated[str, Field(min_length=1, max_length=80)], ...] = ()
    exclusive: bool = False


def why_unusable(delegate: Delegate) -> str:
    """Return why a delegate cannot be used here, or an empty text; it is tried in a process of its own."""
    command = [sys.executable, "-m", "dsops_agent.runtime.delegate", delegate.model_dump_json(), str(os.getpid())]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not start within {TIMEOUT_S:g} s"
    if done.returncode < 0:
        return f"it crashed by signal {-done.returncode} when it was tried"
    text = " ".join(done.stdout.decode(errors="replace").split())[:_MOST_TEXT]
    return text or ("" if done.returncode == 0 else f"the process that tried it exited with {done.returncode}")


@dataclass(frozen=True)
class Absent:
    """A delegate that this device has, and this process cannot use."""

    wanted: Delegate


@dataclass(frozen=True)
class Access:
    """What a proof can do with the device's delegate.

    Attributes:
        found: The delegate, or that it is left out; None when there is none.
        why_not: Why it is left out, when the configuration names one.
        is_elsewhere: Whether what is proved here will run on it all the same, in the data process.
    """

    found: Delegate | Absent | None = None
    why_not: str = ""
    is_elsewhere: bool = False

    @property
    def unproven(self) -> str:
        """Why a bundle is not tried as it will run; empty when it is."""
        return self.why_not if self.is_elsewhere else ""


def access_to(delegate: Delegate | None, problem: str, *, is_challenger: bool) -> Access:
    """Find out what a proof can do with the delegate; that may make it, in a process of its own.

    A delegate that cannot be made here, and that the data process uses, is held by that: no fault of any bundle.

    Args:
        delegate: The one that the configuration names.
        problem: Why the data process does not use it, as that tells.
        is_challenger: Whether a challenger is proved, which never gets a delegate that serves one process.
    """
    if delegate is None:
        return Access()
    left_out = Absent(delegate)
    if problem:
        return Access(left_out, problem)
    if delegate.exclusive and is_challenger:
        return Access(left_out, f"{delegate.name} serves one process, that of the champions")
    if delegate.exclusive:
        return Access(left_out, f"{delegate.name} serves one process, the one that answers", is_elsewhere=True)
    found = why_unusable(delegate)
    return Access(left_out, found, is_elsewhere=True) if found else Access(delegate)


def shown(delegate: Delegate) -> str:
    """Return what people call a delegate."""
    return f"{delegate.name} ({Path(delegate.library).name})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a delegate; print why it cannot be made, if it cannot."""
    text, parent = sys.argv[1:] if arguments is None else arguments
    end_with(int(parent))
    output = own_output()
    delegate = Delegate.model_validate_json(text)
    try:
        load_delegate(find_runtime(), delegate.library, delegate.options)
    except DsopsError as error:
        print(error, file=output, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
