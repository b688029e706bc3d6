"""Runs a command and tells what it took: ``python -m measure.timed REPORT COMMAND...`` writes REPORT as JSON.

A process's peak counts the memory of the one that started it, up to the moment it becomes another program. So the
starter must be small: this module imports nothing but what it needs.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    """Run the command; return its exit code."""
    report, command = Path(sys.argv[1]), sys.argv[2:]
    began_s = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    took_s = time.monotonic() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu_s = usage.ru_utime + usage.ru_stime
    report.write_text(json.dumps({"took_s": took_s, "cpu_s": cpu_s, "peak_mb": usage.ru_maxrss * 1024 / 1e6}))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
