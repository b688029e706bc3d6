"""Prometheus as a peer of the ingest: the same points by remote write, one request after the other for each sender.

``DSOPS_PROMETHEUS`` names its executable; without it the one that ``tools/peers.sh prometheus`` unpacks is looked for.
``python -m measure.prometheus_peer PORT FIRST SENDERS SECONDS`` sends for so long and answers with one JSON line.

A record becomes eight samples: its counts and what is read most of its histograms. Sources: Prometheus Remote-Write 1.0
specification; Snappy format description, sections 1 and 2.1 (a block may consist of literals only, which any decoder
takes); Protocol Buffers, "Encoding".
"""

import http.client
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dsops.errors import RuntimeCrashed
from measure.child import ENVIRONMENT, answer_once, stop
from measure.ingest_load import TELEMETRY_RECORDS
from measure.peers import MADE, found

METRICS = ("count", "errors", "p50", "p95", "p99", "confidence", "drift_score", "drift_frames")
START_S = 30.0
BATCHES = 200
"""At most so many of each sender."""


def program() -> Path | None:
    """Return Prometheus' executable, or None when it is not installed."""
    return found("DSOPS_PROMETHEUS", MADE / "prometheus/usr/bin/prometheus")


@contextmanager
def prometheus(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run Prometheus with the receiver of remote writes, until the end of the block.

    Raises:
        RuntimeCrashed: It did not start.
    """
    tool = program()
    assert tool is not None
    (folder / "prometheus.yml").write_text(
        "storage:\n  tsdb:\n    out_of_order_time_window: 30d\n"  # devices that were away are the point
    )
    command = [
        str(tool),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
    ]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT) as process,
    ):
        try:
            _wait_until_ready(process, port)
            yield process
        finally:
            stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1.0):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeCrashed("prometheus did not start", why="it does not answer on its port")


def varint(number: int) -> bytes:
    """Return a number in base 128."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def samples(start_ms: int) -> bytes:
    """Return the samples of one series of one batch, a second apart."""
    return b"".join(
        _field(2, b"\x09" + struct.pack("<d", 0.1 * number) + b"\x10" + varint(start_ms + number * 1000))
        for number in range(TELEMETRY_RECORDS)
    )


def write_request(device: str, values: bytes) -> bytes:
    """Return one batch of a device as a WriteRequest; each of its series has the same samples."""
    return b"".join(_field(1, _labels(device, metric) + values) for metric in METRICS)


def _labels(device: str, metric: str) -> bytes:
    labels = {"__name__": metric, "device": device, "model": "digits", "release": "1"}
    return b"".join(_field(1, _field(1, k.encode()) + _field(2, v.encode())) for k, v in labels.items())


def snappy(data: bytes) -> bytes:
    """Return a Snappy block of literals."""
    parts = [varint(len(data))]
    for at in range(0, len(data), 65_536):
        piece = data[at : at + 65_536]
        parts += [b"\xf4", struct.pack("<H", len(piece) - 1), piece]
    return b"".join(parts)


def send(port: int, first: int, senders: int, seconds: float) -> dict[str, float]:
    """Send batches of records, one in flight for each sender; return records and seconds."""
    start_ms = time.time_ns() // 1_000_000 - BATCHES * TELEMETRY_RECORDS * 1000
    batches = [samples(start_ms + number * TELEMETRY_RECORDS * 1000) for number in range(BATCHES)]
    began_s = time.monotonic()
    with ThreadPoolExecutor(senders) as threads:
        sent = threads.map(lambda n: _send(port, f"cam-{first + n}", batches, began_s + seconds), range(senders))
        records = TELEMETRY_RECORDS * sum(sent)
    return {"records": records, "seconds": time.monotonic() - began_s}


def _send(port: int, device: str, batches: list[bytes], ends_s: float) -> int:
    link = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0"}
    for number, values in enumerate(batches):
        if time.monotonic() >= ends_s:
            return number
        link.request("POST", "/api/v1/write", snappy(write_request(device, values)), headers)
        answer = link.getresponse()
        why = answer.read()
        if answer.status // 100 != 2:
            raise RuntimeCrashed("prometheus refused a write", why=f"{answer.status} {why[:200]!r}")
    return len(batches)


if __name__ == "__main__":
    listening, first_sender, count, how_long = sys.argv[1:]
    answer_once(lambda: send(int(listening), int(first_sender), int(count), float(how_long)))
