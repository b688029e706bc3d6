"""Starts the data process: ``python -m dsops_agent.runtime --run-folder DIR --settings JSON``.

Whoever starts it sets ``OMP_NUM_THREADS`` and ``OPENBLAS_NUM_THREADS`` to 1: NumPy's own threads gain nothing here.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dsops.clock import SystemClock
from dsops.errors import DsopsError
from dsops_agent.runtime.app import RuntimeProcess
from dsops_agent.runtime.settings import RuntimeSettings

logger = logging.getLogger("dsops_agent.runtime")

_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the data process; return its exit code."""
    parser = argparse.ArgumentParser(prog="dsops_agent.runtime", description="The data process of a device.")
    parser.add_argument("--run-folder", type=Path, required=True)
    parser.add_argument("--settings", default="{}", help="JSON")
    parser.add_argument("--ready-fd", type=int, help="file descriptor that is written to once it answers")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        process = RuntimeProcess(options.run_folder, RuntimeSettings.parse(options.settings), SystemClock())
        process.stop_on_signals()
        process.run(partial(_tell_ready, options.ready_fd))
    except DsopsError as error:
        logger.critical("%s%s", error, f" ({error.hint})" if error.hint else "")
        return _FAILED
    return 0


def _tell_ready(descriptor: int | None) -> None:
    if descriptor is not None:
        os.write(descriptor, b"1")
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
