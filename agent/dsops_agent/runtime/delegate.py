"""Accelerators by configuration: a delegate is a library that takes over operators of a model.

A delegate is foreign code in the process of the models. So it is first made in a throw-away process,
``python -m dsops_agent.runtime.delegate JSON``: one that refuses, hangs or crashes there is left alone, and the models
run on the processor. That is reported, never hidden.

The library exports ``tflite_plugin_create_delegate`` and ``tflite_plugin_destroy_delegate``, as libedgetpu does
(TensorFlow Lite, "External delegate", ``tensorflow/lite/delegates/external/README.md``).
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dsops.errors import DsopsError
from dsops.manifest import DelegateName, Frozen
from dsops_agent.runtime.litert import find_runtime, load_delegate

TIMEOUT_S = 10.0
_MOST_TEXT = 400


class Delegate(Frozen):
    """A delegate that this device shall use.

    Attributes:
        name: What manifests call it, for example ``edgetpu``.
        library: Its shared library, by path or as the loader finds it.
        options: What it is made with.
        operators: Custom operators that it brings, for example ``edgetpu-custom-op``; no others are admitted.
    """

    name: DelegateName
    library: str = Field(min_length=1)
    options: dict[str, str] = Field(default_factory=dict)
    operators: tuple[Annotated[str, Field(min_length=1, max_length=80)], ...] = ()


def why_unusable(delegate: Delegate) -> str:
    """Return why a delegate cannot be used here, or an empty text; it is tried in a process of its own."""
    command = [sys.executable, "-m", "dsops_agent.runtime.delegate", delegate.model_dump_json()]
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


def shown(delegate: Delegate) -> str:
    """Return what people call a delegate."""
    return f"{delegate.name} ({Path(delegate.library).name})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a delegate; print why it cannot be made, if it cannot."""
    (text,) = sys.argv[1:] if arguments is None else arguments
    delegate = Delegate.model_validate_json(text)
    try:
        load_delegate(find_runtime(), delegate.library, delegate.options)
    except DsopsError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
