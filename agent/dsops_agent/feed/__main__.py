"""Starts the feeding process: ``python -m dsops_agent.feed --settings JSON``. It ends when its standard input does."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dsops.errors import DsopsError
from dsops_agent.feed.app import FeedProcess
from dsops_agent.feed.settings import MAX_VALUES, FeedSettings

logger = logging.getLogger("dsops_agent.feed")

_FAILED = 1
_OOM_SCORE = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the feeding process; return its exit code."""
    parser = argparse.ArgumentParser(prog="dsops_agent.feed", description="Feeds models with frames of sources.")
    parser.add_argument("--settings", required=True, help="JSON")
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_VALUES))  # read when OpenCV is loaded; its own: 2^30
    with suppress(OSError):  # when memory is short, this process goes first, and not the one that others ask
        Path("/proc/self/oom_score_adj").write_text(f"{_OOM_SCORE}\n")
    try:
        process = FeedProcess(FeedSettings.parse(options.settings))
        process.stop_on_signals()
        process.stop_with_parent()
        process.run()
    except DsopsError as error:
        logger.critical("%s%s", error, f" ({error.hint})" if error.hint else "")
        return _FAILED
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # a driver that hangs must not keep the process
