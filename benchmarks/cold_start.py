"""How soon a device answers again after its agent was started, and what its two processes weigh.

A device that is enrolled, has a model, and whose controller, broker and store are there, all real. The clock runs from
the exec of ``dsops-agent run`` to the first answer on the inference socket. The limits that nothing in Python can pass
are measured beside it: an interpreter that does nothing, one that imports LiteRT and loads the model. Memory is that of
a settled agent whose broker and store are connected. Libraries that controller and agent share here count as the
device's own: see ``measure/device.py``.
"""

import statistics
import sys
from pathlib import Path

from measure.device import Device, Footprint, enrolled, timed_s, weigh
from measure.report import Limit, Report, Row, run

ROUNDS = 7
REST_S = 25.0
"""Memory is given back ten seconds after the start; what is counted was used since."""
START_LIMIT = Limit("figure", "<=", 1.5)
CONTROL_LIMIT = Limit("figure", "<=", 45.0)
RUNTIME_LIMIT = Limit("figure", "<=", 60.0)
BARE = """
import numpy
from ai_edge_litert.interpreter import Interpreter
model = Interpreter(model_content=open({path!r}, "rb").read(), num_threads=1)
model.allocate_tensors()
model.invoke()
"""


def measure() -> Report:
    """Start a device several times, and weigh it once."""
    with enrolled() as device:
        bare = BARE.format(path=str(_payload(device)))
        starts, nothing, litert = [], [], []
        for _ in range(ROUNDS):
            starts.append(device.start())
            device.stop()
            nothing.append(timed_s("pass"))
            litert.append(timed_s(bare))
        device.start()
        status = device.settle(REST_S)
        control, runtime = Footprint.of(device.pid), Footprint.of(status.runtime_pid or 0)
        alone = weigh(bare)
        facts = {"rounds": ROUNDS, "slowest start": f"{max(starts):.2f} s", "spool": str(status.spool_bytes)}
    rows = (
        Row("exec to first answer", "s", _median(starts), _median(litert), "LiteRT loads the model", START_LIMIT),
        Row("exec to first answer", "s", _median(starts), _median(nothing), "python -c pass"),
        Row("control process, PSS on a device", "MB", control.beside_mb(runtime), limit=CONTROL_LIMIT),
        Row("control process, PSS here", "MB", control.proportional_mb),
        Row("control process, its own", "MB", control.dirty_mb),
        Row("both processes, PSS on a device", "MB", control.beside_mb(runtime) + runtime.beside_mb(control)),
        Row("runtime, PSS on a device", "MB", runtime.beside_mb(control), alone.beside_mb(None), "LiteRT and model"),
        Row(
            "runtime, over LiteRT and model", "MB", runtime.beside_mb(None) - alone.beside_mb(None), limit=RUNTIME_LIMIT
        ),
        Row("runtime, its own", "MB", runtime.dirty_mb, alone.dirty_mb, "LiteRT and model"),
    )
    return Report("cold_start", "A device starts", facts, rows)


def _payload(device: Device) -> Path:
    return next(device.built.glob("**/*.tflite"))


def _median(figures: list[float]) -> float:
    return statistics.median(figures)


if __name__ == "__main__":
    sys.exit(run(measure))
