"""The build benchmark's peers: onnx2tf and TensorFlow's TFLiteConverter, each in an environment of its own.

``DSOPS_ONNX2TF`` names onnx2tf's executable and ``DSOPS_TENSORFLOW_PYTHON`` a Python with TensorFlow; without them the
environments that ``tools/peers.sh`` makes are looked for.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dsops.errors import RuntimeCrashed
from measure.child import ENVIRONMENT

HERE = Path(__file__).parent
MADE = Path(__file__).parents[2] / ".tools" / "peers"
TIMEOUT_S = 900.0
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class Cost:
    """What a command took: wall time, processor time, and the peak memory of its largest process."""

    took_s: float
    cpu_s: float
    peak_mb: float


def onnx2tf() -> Path | None:
    """Return onnx2tf's executable, or None when it is not installed."""
    return found("DSOPS_ONNX2TF", MADE / "onnx2tf/bin/onnx2tf")


def onnx2tf_python() -> Path | None:
    """Return the Python beside onnx2tf, which has onnxruntime."""
    tool = onnx2tf()
    return tool.with_name("python") if tool and tool.with_name("python").exists() else None


def tensorflow_python() -> Path | None:
    """Return a Python with TensorFlow, or None when it is not installed."""
    return found("DSOPS_TENSORFLOW_PYTHON", MADE / "tensorflow/bin/python")


def drift_python(library: str) -> Path | None:
    """Return a Python with a drift library, or None when it is not installed."""
    variable = f"DSOPS_{library.upper().replace('-', '_')}_PYTHON"
    return found(variable, MADE / library / "bin/python")


def version_of(python: Path | None, package: str) -> str:
    """Return the version of a package in an environment, or why there is none."""
    if python is None:
        return "not installed"
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60.0, check=False)
    return done.stdout.strip() or "not installed"


def timed(folder: Path, *command: str | Path, path: Path | None = None) -> Cost:
    """Run a command in ``folder`` and return what it took. Its output goes to a file there.

    Args:
        folder: Where it runs.
        command: Program and arguments.
        path: Folder in which programs are found first; onnx2tf looks for onnxsim by its name.

    Raises:
        RuntimeCrashed: It failed; the text ends with its last lines.
    """
    report, log = folder / "cost.json", folder / "command.log"
    whole = [sys.executable, "-m", "measure.timed", str(report), *map(str, command)]
    environment = ENVIRONMENT | QUIET
    if path is not None:
        environment["PATH"] = os.pathsep.join([str(path), environment.get("PATH", os.defpath)])
    with log.open("wb") as out:
        done = subprocess.run(
            whole, cwd=folder, stdout=out, stderr=out, env=environment, timeout=TIMEOUT_S, check=False
        )
    if done.returncode:
        raise RuntimeCrashed(f"{Path(command[0]).name} failed", why=log.read_text(errors="replace")[-800:])
    return Cost(**json.loads(report.read_text()))


def convert_by_keras(folder: Path) -> Cost:
    """Build the network of ``folder`` in Keras; write ``int8.tflite`` there."""
    python = tensorflow_python()
    assert python is not None
    return timed(folder, python, HERE / "keras_peer.py", folder)


def convert_by_onnx2tf(folder: Path, model: Path, *options: str) -> Cost:
    """Convert a copy of a model, since onnx2tf rewrites what it is given; the results are in ``folder``."""
    tool = onnx2tf()
    assert tool is not None
    copy = folder / "copy.onnx"
    shutil.copyfile(model, copy)
    return timed(folder, tool, "-i", copy, "-o", folder, *options, path=tool.parent)


def parity(model: Path, frames: Path, *candidates: Path) -> list[float]:
    """Return how far each TFLite model's outputs are from onnxruntime's, over the largest output."""
    python = onnx2tf_python()
    assert python is not None
    command = [python, HERE / "parity_peer.py", model, frames, *candidates]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeCrashed("onnxruntime failed", why=done.stderr[-800:])
    found = json.loads(done.stdout)
    return [found[str(path)] for path in candidates]


def found(variable: str, made: Path) -> Path | None:
    """Return the program that a variable names, or the one that was made; None when there is neither."""
    named = os.environ.get(variable)
    path = Path(named) if named else made
    return path if path.exists() else None
