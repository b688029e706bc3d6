"""One device in a process of its own: ``python -m measure.one_agent PORT IDENTITY DEVICE STAGING SHA256 LENGTH INDEX``.

The agent's own session and transfer. Says ``ready`` when it is connected, fetches when a line comes, and answers with
one JSON line. What the staging folder holds from an earlier process, it does not fetch again.
"""

import json
import logging
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dsops_agent.identity import IdentityFolder
from dsops_agent.install.fetch import Wanted
from measure.broker import resident_mb
from measure.child import READY
from measure.receivers import OurReceiver

RESET_PEAK = "5"
"""Makes VmHWM begin anew (proc(5), clear_refs)."""


@dataclass(frozen=True)
class Fetched:
    """What a fetch took. ``grown_mb`` is the most memory during it, less what was resident before."""

    took_s: float
    cpu_s: float
    grown_mb: float


def fetch(receiver: OurReceiver) -> Fetched:
    """Fetch the bundle onto the disk."""
    before_mb = resident_mb(os.getpid())
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    receiver.fetch()
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    return Fetched(took_s, cpu_s, resident_mb(os.getpid(), "VmHWM") - before_mb)


def main() -> None:
    """Connect, wait for the word, fetch, tell what it took."""
    logging.getLogger("dsops_agent").setLevel(logging.ERROR)  # what cuts it off does so on purpose
    port, identities, device, staging, sha256, length, index = sys.argv[1:]
    identity = IdentityFolder(Path(identities)).load(device)
    assert identity is not None, "the parent enrolled it"
    receiver = OurReceiver(identity, int(port), Path(staging), Wanted(sha256, int(length), index))
    receiver.wait_connected()
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sys.stdout.write(json.dumps(asdict(fetch(receiver))) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    receiver.close()


if __name__ == "__main__":
    main()
