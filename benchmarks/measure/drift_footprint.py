"""What the agent's drift code adds to a process that has NumPy: run as a program it prints bytes and packages."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure.child import ENVIRONMENT

PROGRAM = """
import json, logging, sys
import numpy, numpy.fft, numpy.typing
from dsops.profile import Profile
import dsops_agent.config
def resident():  # without the pages of NumPy's own file, which are there anyway
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
profile = Profile.decode(sys.stdin.buffer.read())
numpy.fft.rfft(numpy.ones((64, 2)), 128, axis=0)
before, packages = resident(), {name.partition(".")[0] for name in sys.modules}
from dsops_agent.drift.monitor import DriftMonitor
from dsops_agent.drift import skew, explain, correlation
monitor = DriftMonitor(profile)
for start in range(0, 1600, 16):  # not numpy.random, which weighs several megabytes itself
    monitor.feed({one.name: [number * 7 % 10 / 10 for number in range(start, start + 16)] for one in profile.signals})
added = {name.partition(".")[0] for name in sys.modules} - packages - set(sys.stdlib_module_names)
print(json.dumps({"resident": resident() - before, "packages": sorted(added - {"dsops", "dsops_agent", "numpy"})}))
"""


def footprint(profile: Path) -> tuple[int, list[str]]:
    """Return bytes of memory that monitor and state add, and packages beyond NumPy and what every agent loads.

    The first run compiles; an installed agent finds everything compiled, and so does the second.
    """
    with tempfile.TemporaryDirectory(prefix="ds") as folder:
        environment = ENVIRONMENT | {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        found = [_run(profile, environment) for _ in range(2)][-1]
    return found["resident"], found["packages"]


def _run(profile: Path, environment: dict[str, str]) -> dict[str, Any]:
    with profile.open("rb") as given:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], stdin=given, capture_output=True, env=environment, timeout=120, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
