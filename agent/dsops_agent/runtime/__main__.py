"""Starts the data process: ``python -m dsops_agent.runtime --run-folder DIR --settings JSON``.

Whoever starts it sets ``OMP_NUM_THREADS`` and ``OPENBLAS_NUM_THREADS`` to 1: NumPy's own threads gain nothing here.
"""

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dsops.clock import SystemClock
from dsops.errors import DsopsError
from dsops_agent.runtime.app import RuntimeProcess
from dsops_agent.runtime.flight import forget_flight

logger = logging.getLogger("dsops_agent.runtime")

END_S = 4.0
"""How long the end may take; the control process kills after five seconds."""
_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the data process; return its exit code."""
    parser = argparse.ArgumentParser(prog="dsops_agent.runtime", description="The data process of a device.")
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--settings", default="{}", help="JSON")
    parser.add_argument("--ready-fd", type=int, help="file descriptor that is written to once it answers")
    options = parser.parse_args(arguments)
    layout = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=layout, force=True)  # not the control process's
    try:
        process = RuntimeProcess(options.run_folder, options.settings, SystemClock())
        process.stop_on_signals()
        process.run(partial(_tell_ready, options.ready_fd), partial(_leave_in_time, options.run_folder))
    except DsopsError as error:
        logger.critical("%s%s", error, f" ({error.hint})" if error.hint else "")
        return _FAILED
    return 0


def _tell_ready(descriptor: int | None) -> None:
    if descriptor is not None:
        os.write(descriptor, b"1")
        os.close(descriptor)


def _leave_in_time(folder: Path) -> None:
    """Let the process be gone in time, even if a frame does not come back or the control process does not listen.

    Requests under way are waited for, and those for their frames.
    """

    def leave() -> None:
        time.sleep(END_S)
        logger.warning("what is under way after %g s is left behind", END_S)
        forget_flight(folder)  # the process ends by order, which is the fault of nothing that runs
        os._exit(0)

    threading.Thread(target=leave, name="leave", daemon=True).start()


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # at once: threads of gRPC may wait for callers that send nothing
