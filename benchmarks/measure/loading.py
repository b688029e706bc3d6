"""Loads a bundle's payload as a device does, and tells what it took.

``python -m measure.loading BUNDLE`` prints JSON; the content key of a sealed bundle comes over the standard input.
"""

import json
import sys
import time
from pathlib import Path

from dsops.bundle import Bundle
from dsops.sealing import ContentKey, read_blob
from dsops_agent.runtime.litert import LoadedModel, find_runtime
from dsops_agent.runtime.memory import peak_bytes


def main() -> None:
    """Load once."""
    given = sys.stdin.buffer.read()
    key = ContentKey(given) if given else None
    bundle = Bundle.open(Path(sys.argv[1]))
    find_runtime()  # its import is not what is asked
    before_bytes = peak_bytes()
    began_s = time.perf_counter()
    payload = read_blob(bundle, bundle.manifest.payload, key)
    read_s = time.perf_counter() - began_s
    read_bytes = peak_bytes()
    LoadedModel(payload)
    loaded_s = time.perf_counter() - began_s
    report = {
        "read_ms": read_s * 1000,
        "loaded_ms": loaded_s * 1000,
        "read_mb": (read_bytes - before_bytes) / 1e6,
        "loaded_mb": (peak_bytes() - before_bytes) / 1e6,
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
