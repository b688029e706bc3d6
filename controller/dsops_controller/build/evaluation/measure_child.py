"""Measures one model in a process of its own.

:mod:`dsops_controller.build.evaluation.measure_model` starts it by its path.

It imports nothing but the interpreter and NumPy, so that the memory it sees is what a device would need. Arguments: a
folder that holds ``request.json`` and the files it names, and into which ``result.json`` is written.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

REQUEST, RESULT = "request.json", "result.json"
MAX_REPEATS = 1000
MIN_REPEATS = 5
WARM_UP_SHARE = 0.2
"""Share of the time given that goes into the warm-up."""
OPERATOR_REPEATS = 50
_REFUSALS = (ValueError, RuntimeError, MemoryError, OverflowError)

Frames = list[list[Any]]


def main(folder: Path) -> None:
    """Measure what the request names."""
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    model = (folder / "model.tflite").read_bytes()
    inputs = [np.load(folder / f"input{place}.npy", allow_pickle=False) for place in range(request["inputs"])]
    frames = [[values[row : row + 1] for values in inputs] for row in range(len(inputs[0]))]
    memory, latencies = None, []
    for threads in request["threads"]:
        base = _start_memory(len(model)) if memory is None else None
        run = _runner(model, threads)
        run(frames[0])
        memory = memory or _end_memory(base)
        latencies.append({"threads": threads, "us": _latencies(run, frames, request["seconds"])})
        del run
    operators = _operators(folder, request["operators"], request["seconds"], request["threads"][0])
    result = {"memory": memory, "latencies": latencies, "operator_us": operators}
    (folder / RESULT).write_text(json.dumps(result), encoding="utf-8")


def _runner(model: bytes, threads: int) -> Callable[[list[Any]], None]:
    interpreter = Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def run(frame: list[Any]) -> None:
        for index, values in zip(inputs, frame, strict=True):
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        for index in outputs:
            interpreter.get_tensor(index)

    return run


def _latencies(run: Callable[[list[Any]], None], frames: Frames, seconds: float) -> list[float]:
    _timed(run, frames, seconds * WARM_UP_SHARE, 1)
    return _timed(run, frames, seconds * (1 - WARM_UP_SHARE), MIN_REPEATS)


def _timed(run: Callable[[list[Any]], None], frames: Frames, seconds: float, least: int) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < least or (time.perf_counter() < end and len(taken) < MAX_REPEATS):
        frame = frames[len(taken) % len(frames)]
        start = time.perf_counter_ns()
        run(frame)
        taken.append((time.perf_counter_ns() - start) / 1e3)
    return taken


def _operators(folder: Path, count: int, seconds: float, threads: int) -> list[float | None]:
    """Return the median time of each single-operator model; None for one that does not run by itself."""
    return [_operator(folder / f"operator{place}.tflite", seconds / max(count, 1), threads) for place in range(count)]


def _operator(path: Path, seconds: float, threads: int) -> float | None:
    try:
        interpreter = Interpreter(model_content=path.read_bytes(), num_threads=threads)
        interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
        interpreter.invoke()
    except (*_REFUSALS, OSError):
        return None
    end = time.perf_counter() + seconds
    taken: list[int] = []
    while len(taken) < MIN_REPEATS or (time.perf_counter() < end and len(taken) < OPERATOR_REPEATS):
        start = time.perf_counter_ns()
        interpreter.invoke()
        taken.append(time.perf_counter_ns() - start)
    return float(np.median(taken)) / 1e3


def _start_memory(model_bytes: int) -> int | None:
    """Return the resident memory without the model's file, and let the kernel's high-water mark start from here."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): reset the peak resident set size
    resident = _status("VmRSS")
    return None if resident is None else resident - model_bytes


def _end_memory(base: int | None) -> dict[str, int] | None:
    peak = _status("VmHWM")
    return None if base is None or peak is None else {"base_bytes": base, "peak_bytes": peak}


def _status(key: str) -> int | None:
    """Return a figure of ``/proc/self/status`` in bytes; ``getrusage`` would tell the parent's peak after a fork."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
