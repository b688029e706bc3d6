"""How much telemetry and how many samples one server takes, durably, from devices in other processes.

The server is the controller's own gRPC interface with mutual TLS, its inbox over SQLite, and its lake, flushed as the
product does it. The limits are measured in the same run, in turns: what the store takes without a network of the same
messages, of records that were checked already, and straight into the lake; and a gRPC interface that only answers. The
peer is Prometheus, which takes the same points by remote write. Then what it takes for half a minute, flushes among it,
acknowledgements at half of that rate, and the server's memory while devices flood it.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from measure import prometheus_peer
from measure.child import child
from measure.ingest_load import SAMPLE_RECORDS, TELEMETRY_RECORDS
from measure.report import Limit, Report, Row, run

PROCESSES, DEVICES = 2, 16
"""Client processes, and devices together."""
ROUNDS = int(os.environ.get("DSOPS_BENCH_ROUNDS", "3"))
SECONDS = 4.0
LONG_S = 30.0
"""Into so long several flushes fall, which take turns with what comes in; into a short run none may."""
HALF_S = 20.0
FLOOD_S = 15.0
FLOODERS = 15
RECORDS = {"telemetry": TELEMETRY_RECORDS, "samples": SAMPLE_RECORDS}
STORE = "the store without a network"
AT_LEAST = Limit("ratio", ">=", 0.7)
LATEST_MS = Limit("figure", "<=", 500.0)
MOST_MB = Limit("figure", "<=", 512.0)


def ask(process: subprocess.Popen[str]) -> None:
    """Let a child begin."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a child found."""
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


@contextmanager
def server(mode: str, devices: int = DEVICES) -> Iterator[tuple[Path, int]]:
    """Run a server; yield its folder and its process id."""
    with (
        tempfile.TemporaryDirectory(prefix="ds") as name,
        child("measure.ingest_server", name, mode, str(devices)) as process,
    ):
        yield Path(name), process.pid


def together(module: str, *arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Run a module once for each list of arguments, at the same time; return what they found."""
    with ExitStack() as stack:
        children = [stack.enter_context(child(module, *each)) for each in arguments]
        for one in children:
            ask(one)
        return [answer(one) for one in children]


def devices_send(folder: Path, kind: str, seconds: float, gap_s: float = 0.0) -> list[dict[str, Any]]:
    """Have the devices send; return what each process found."""
    each = DEVICES // PROCESSES
    return together(
        "measure.ingest_client",
        *((str(folder), str(each * n), str(each), kind, str(seconds), str(gap_s)) for n in range(PROCESSES)),
    )


def over_grpc(mode: str, kind: str, seconds: float = SECONDS) -> float:
    """Return records per second that a server acknowledges."""
    with server(mode) as (folder, _):
        return sum(found["records"] for found in devices_send(folder, kind, seconds)) / seconds


def into_store(where: str, kind: str) -> float:
    """Return records per second that the store takes without a network."""
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        (found,) = together("measure.ingest_store", (name, where, kind, str(SECONDS), str(DEVICES)))
    return float(found["records"] / found["seconds"])


def into_prometheus() -> float:
    """Return records per second that Prometheus takes by remote write."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    each = DEVICES // PROCESSES
    with tempfile.TemporaryDirectory(prefix="ds") as name, prometheus_peer.prometheus(Path(name), port):
        found = together(
            "measure.prometheus_peer",
            *((str(port), str(each * n), str(each), str(SECONDS)) for n in range(PROCESSES)),
        )
    return float(sum(one["records"] / one["seconds"] for one in found))


def rates(kind: str) -> dict[str, float]:
    """Return the medians of runs that took turns, by what was measured."""
    has_peer = kind == "telemetry" and prometheus_peer.program() is not None
    turns = {
        "ours": lambda: over_grpc("store", kind),
        "bytes": lambda: into_store("bytes", kind),
        "inbox": lambda: into_store("inbox", kind),
        "lake": lambda: into_store("lake", kind),
        "echo": lambda: over_grpc("echo", kind),
        **({"prometheus": into_prometheus} if has_peer else {}),
    }
    found: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(ROUNDS):
        for name, turn in list(turns.items())[:: 1 if number % 2 == 0 else -1]:
            found[name].append(turn())
            sys.stderr.write(f"{kind} {name} {found[name][-1]:.0f}/s\n")
    return {name: statistics.median(runs) for name, runs in found.items()}


def rate_rows(kind: str, found: dict[str, float]) -> list[Row]:
    """Return what was measured of one kind."""
    what = f"{kind}, batches of {RECORDS[kind]}"
    rows = [
        Row(what, "records/s", found["ours"], found["bytes"], STORE, AT_LEAST),
        Row("the same", "records/s", found["ours"], found["inbox"], "straight into the inbox, not checked"),
        Row("the same", "records/s", found["ours"], found["lake"], "straight into the lake"),
        Row("the same", "records/s", found["ours"], found["echo"], "gRPC that only answers"),
    ]
    if "prometheus" in found:
        points = len(prometheus_peer.METRICS)
        rows.append(
            Row("the same", "records/s", found["ours"], found["prometheus"], f"Prometheus, {points} points each")
        )
    if kind == "samples":
        rows.append(Row("the same", "MB/s", found["ours"] / 100, found["bytes"] / 100, STORE))
    return rows


def lasting(kind: str, short_per_s: float) -> Iterator[Row]:
    """Yield what is taken for a longer time, and the 99th percentile of acknowledgements at half of that rate."""
    most_per_s = over_grpc("store", kind, LONG_S)
    yield Row(f"{kind}, for {LONG_S:.0f} s, flushes among it", "records/s", most_per_s, short_per_s, "for 4 s")
    gap_s = DEVICES * RECORDS[kind] / (most_per_s / 2)
    with server("store") as (folder, _):
        waits = [wait for found in devices_send(folder, kind, HALF_S, gap_s) for wait in found["waits_ms"]]
    latest_ms = statistics.quantiles(waits, n=100)[98]
    yield Row(f"{kind}, at half of that rate: acknowledgement, p99", "ms", latest_ms, limit=LATEST_MS)


def flooded() -> list[Row]:
    """Flood a server from all devices but one; return its memory, and how the one fares."""
    with server("store", FLOODERS + 1) as (folder, pid):
        idle_mb = memory_mb(pid, "VmRSS")
        with (
            child("measure.ingest_client", str(folder), "0", str(FLOODERS), "telemetry", str(FLOOD_S), "-1") as hostile,
            child("measure.ingest_client", str(folder), str(FLOODERS), "1", "telemetry", str(FLOOD_S), "0.5") as good,
        ):
            ask(hostile)
            ask(good)
            waits, refused = answer(good)["waits_ms"], answer(hostile)["refused"]
        peak_mb = memory_mb(pid, "VmHWM")
    return [
        Row(f"flood of {4 * FLOODERS} streams, 0.9 MB batches: memory, peak", "MB", peak_mb, idle_mb, "idle", MOST_MB),
        Row("the same: streams refused", "", refused),
        Row("the same: batches of another device that were acknowledged", "", len(waits)),
    ]


def memory_mb(pid: int, what: str) -> float:
    """Return a figure of a process's memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def measure() -> Report:
    """Measure everything."""
    began_s = time.monotonic()
    rows: list[Row] = []
    for kind in RECORDS:
        found = rates(kind)
        rows += [*rate_rows(kind, found), *lasting(kind, found["ours"])]
    rows += flooded()
    facts = {
        "devices": f"{DEVICES} in {PROCESSES} processes",
        "rounds": ROUNDS,
        "load": f"{os.getloadavg()[0]:.0f}",
        "took": f"{time.monotonic() - began_s:.0f} s",
        "prometheus": "Debian" if prometheus_peer.program() else "not installed: tools/peers.sh prometheus",
    }
    return Report("ingest", "Ingest, one server on the same cores as everything else, medians", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
