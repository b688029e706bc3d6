"""Measures what a model costs on this machine: latency, peak memory, and the time of each operator.

All of it in a fresh process, one model at a time, so that nothing the build did before is counted.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from dsops.errors import InvalidModel, NoSpace
from dsops_controller.build.data import Array, DataSet
from dsops_controller.build.evaluation.evaluation import Latency, Measured, Memory
from dsops_controller.build.evaluation.measure_child import REQUEST, RESULT
from dsops_controller.build.evaluation.measure_operators import single_operators
from dsops_controller.build.litert import LitertModel, quantize_frame

FRAMES = 8
TIMEOUT_S = 600.0
HISTOGRAM_BINS = 24
_BEYOND_P95 = 1.3
"""The histogram ends at this multiple of the 95th percentile, or one interruption would squeeze the rest."""
_CHILD = Path(__file__).with_name("measure_child.py")


@dataclass(frozen=True)
class Measuring:
    """What to measure.

    Attributes:
        threads: Numbers of threads of one inference to measure with; memory and operators with the first.
        seconds: Time to spend on latency with each number of threads, and again on the operators. A slow model takes
            longer: at least five inferences are timed.
        operators: Whether to time each operator by itself.
    """

    threads: tuple[int, ...] = (1,)
    seconds: float = 0.5
    operators: bool = True


STANDARD = Measuring()


def measure_model(model: bytes, data: DataSet, measuring: Measuring) -> Measured:
    """Measure one model on the first frames of some data.

    Raises:
        InvalidModel: The model ends the process in which it is measured, or does not finish.
        NoSpace: There is no room for it in the folder for temporary files.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="dsops-measure-") as name:
            folder = Path(name)
            _write_request(folder, model, data, measuring)
            _run_child(folder)
            return _measured(json.loads((folder / RESULT).read_text(encoding="utf-8")))
    except OSError as error:
        raise NoSpace(f"the model cannot be measured in {tempfile.gettempdir()}", why=error.strerror or "") from error


def describe_machine() -> dict[str, str]:
    """Return what latencies and memory depend on, for the report's reader."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processors": str(os.cpu_count() or 0),
        "processor": _processor(),
        "python": platform.python_version(),
        "ai-edge-litert": metadata.version("ai-edge-litert"),
    }


def _write_request(folder: Path, model: bytes, data: DataSet, measuring: Measuring) -> None:
    (folder / "model.tflite").write_bytes(model)
    specs = LitertModel(model).inputs
    few = data.rows(slice(0, FRAMES))
    for place, spec in enumerate(specs):
        np.save(folder / f"input{place}.npy", quantize_frame(few.inputs[spec.name], spec), allow_pickle=False)
    operators = list(single_operators(model)) if measuring.operators else []
    for place, single in enumerate(operators):
        (folder / f"operator{place}.tflite").write_bytes(single or b"")
    request = {
        "inputs": len(specs),
        "threads": list(measuring.threads),
        "seconds": measuring.seconds,
        "operators": len(operators),
    }
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")


def _run_child(folder: Path) -> None:
    """Run the child with ``-P``: modules beside it share names with the standard library's."""
    command = [sys.executable, "-P", str(_CHILD), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise InvalidModel("the model cannot be measured", why=f"it did not finish in {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise InvalidModel(
            "the model cannot be measured",
            why=f"its process ended with {done.returncode}{': ' + said[-1] if said else ''}",
        )


def _measured(result: dict[str, Any]) -> Measured:
    memory = result["memory"]
    return Measured(
        latencies=tuple(_latency(one["threads"], np.array(one["us"])) for one in result["latencies"]),
        memory=None if memory is None else Memory(memory["base_bytes"], memory["peak_bytes"]),
        operator_us=tuple(result["operator_us"]),
    )


def _latency(threads: int, taken: Array) -> Latency:
    median, p95, p99 = (float(value) for value in np.percentile(taken, (50, 95, 99)))
    low = float(taken.min())
    high = max(min(p99, p95 * _BEYOND_P95), low * 1.001)
    counts, edges = np.histogram(np.minimum(taken, high), HISTOGRAM_BINS, (low, high))
    return Latency(
        threads=threads,
        repeats=len(taken),
        smallest_us=low,
        median_us=median,
        p95_us=p95,
        p99_us=p99,
        edges=tuple(float(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
