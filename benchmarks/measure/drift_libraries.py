"""Drift libraries as peers: each runs in an environment of its own, beside everything else, on streams from a file."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from measure.child import ENVIRONMENT
from measure.drift_rates import Power
from measure.peers import HERE, drift_python, version_of

LIBRARIES = ("river", "frouros", "alibi-detect")
TIMEOUT_S = 1200.0


@dataclass(frozen=True)
class Peer:
    """What a library's detector did: its false alarms in 10,000 clean frames, its delays, its time a frame."""

    name: str
    rate: float
    power: Power
    us: float


@dataclass(frozen=True)
class Started:
    """A library at work; without a process it is not installed."""

    library: str
    process: subprocess.Popen[str] | None

    def result(self) -> list[Peer]:
        """Wait for what its detectors did; nothing when it is not installed or failed."""
        if self.process is None:
            return []
        out, _ = self.process.communicate(timeout=TIMEOUT_S)
        if self.process.returncode:
            return []
        return [_peer(one) for one in json.loads(out)]


@contextmanager
def started(streams: Path, *, quick: bool) -> Iterator[list[Started]]:
    """Start every library that is installed; none with ``quick``. They are gone afterwards."""
    found = [Started(library, None if quick else _start(library, streams)) for library in LIBRARIES]
    try:
        yield found
    finally:
        for one in found:
            if one.process is not None and one.process.poll() is None:
                one.process.kill()
                one.process.wait()


def versions() -> dict[str, str]:
    """Return the version of each library, or that it is not installed."""
    return {library: version_of(drift_python(library), library) for library in LIBRARIES}


def _start(library: str, streams: Path) -> subprocess.Popen[str] | None:
    python = drift_python(library)
    if python is None:
        return None
    command = [python, HERE / "drift_peer.py", library, streams]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)


def _peer(found: dict[str, object]) -> Peer:
    raw: list[list[int]] = found["delays"]  # type: ignore[assignment]
    delays = tuple(tuple(float(one) if one else float("inf") for one in streams) for streams in raw)
    return Peer(str(found["name"]), float(str(found["rate"])), Power(delays), float(str(found["us"])))
