"""Our data process as it runs on a device, with the control process's end of its channel."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsops.errors import RuntimeCrashed
from dsops_agent.runtime.channel import Channel, Header
from dsops_agent.runtime_process import runtime_environment
from measure.child import stop
from measure.model import Packed

START_S = 20.0
INTERVAL_S = 2.0
"""A device reports every 10 seconds; the runs are short, so that several reports fall into them."""


@dataclass(frozen=True)
class Served:
    """A data process that answers: its pid, the control process's end, and the telemetry that came over it."""

    pid: int
    channel: Channel
    records: list[bytes]


@contextmanager
def serving(folder: Path, bundle: Packed, *, shadow: bool = False) -> Iterator[Served]:
    """Run the data process with a bundle active and default settings; ``inference.sock`` is in ``folder``.

    Args:
        folder: Its run folder.
        bundle: What it serves.
        shadow: Whether it is that of a challenger in the shadow.

    Raises:
        RuntimeCrashed: It did not start.
    """
    settings = json.dumps({"interval_s": INTERVAL_S, "shadow": shadow})
    command = [sys.executable, "-m", "dsops_agent.runtime", "--run-folder", str(folder), "--settings", settings]
    with (folder / "runtime.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=runtime_environment())
    records: list[bytes] = []
    try:
        channel = _connect(folder / "control.sock", process, records)
        try:
            channel.call(
                "activate", model=bundle.manifest.model, path=str(bundle.path), digest=bundle.digest, release=1
            )
            yield Served(process.pid, channel, records)
        finally:
            channel.close()
    finally:
        stop(process)


def _connect(path: Path, process: subprocess.Popen[bytes], records: list[bytes]) -> Channel:
    ends_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < ends_s:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            time.sleep(0.02)
            continue
        channel = Channel(sock, partial(_store, records))
        channel.start()
        return channel
    raise RuntimeCrashed("the data process did not start", why=(path.parent / "runtime.log").read_text()[-500:])


def _store(records: list[bytes], op: str, header: Header, body: bytes) -> tuple[Header, bytes]:
    """Acknowledge records at once; making them durable is the control process's work and not measured here."""
    start = 0
    for kind, size in zip(header["kinds"], header["sizes"], strict=True):
        if kind == "telemetry":
            records.append(body[start : start + size])
        start += size
    return {"stored": len(header["kinds"])}, b""
