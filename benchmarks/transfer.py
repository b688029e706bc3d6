"""What it takes to bring a bundle to a fleet through a real mosquitto on loopback, and how far that is from the limits.

Content-addressed retained chunks, published by the controller's link. Light agents are many in one process, with the
agent's own window; the real agent is its session and transfer in a process of its own, every chunk checked, the file
made durable. Limits and peers, on the same machine in the same run: a plain socket, curl, mosquitto_pub and
mosquitto_sub, and one retained message with paho-mqtt. ``--quick`` leaves the large cells out.
"""

import logging
import statistics
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from measure import limits, single
from measure.broker import broker, light_credentials
from measure.fetches import SwarmRun, seeded, to_agent, to_interrupted_agent, to_swarm, window_bytes
from measure.place import Cargo, Place
from measure.report import Limit, Report, Row, run

from dsops.chunks import DEFAULT_CHUNK_BYTES

SMALL_BYTES, LARGE_BYTES = 5_000_000, 50_000_000
COUNTS = (1, 10, 100, 500)
QUICK_COUNTS = (1, 10)
DEVICES = 10
ROUNDS = 3
SHORT_BYTES = 100_000_000
"""A cell that moves less than this in all is measured several times."""
INTERRUPTIONS = 20
MOST_ALLOWED = 0.5
"""Twenty windows are more than 5 MB, and a limit that allows so much shows nothing: of a file a half at most."""
WHOLE_LIMIT = Limit("figure", "<=", 1.01)
INTERRUPTED_LIMIT = Limit("figure", "<=", 1.05)
SPEED_LIMIT = Limit("ratio", ">=", 0.25)
CONTROLLER_LIMIT = Limit("figure", "<=", 0.05)
GROWTH_LIMIT = Limit("figure", "<=", 8.0)
BROKER_MARGIN_MB = 16.0
MEDIAN = statistics.median


def swarm_rows(place: Place, cargo: Cargo, count: int, most: int, *, tls: bool) -> list[Row]:
    """Measure one cell: a file, so many light agents, with or without TLS; the controller is told of with the most."""
    rounds = ROUNDS if cargo.size_bytes * count < SHORT_BYTES else 1
    runs = [to_swarm(place, cargo, count, tls=tls) for _ in range(rounds)]
    name = f"{cargo.name} to {count}, {'TLS' if tls else 'plain'}"
    broker_limit = Limit("figure", "<=", cargo.size_bytes / 1e6 + BROKER_MARGIN_MB)
    return [
        Row(f"{name}: until the last has it", "s", _middle(run.took_s for run in runs)),
        Row(f"{name}: bytes to each", "of file", _middle(run.bytes_ratio for run in runs), limit=WHOLE_LIMIT),
        Row(f"{name}: broker, processor", "s", _middle(run.broker_cpu_s for run in runs)),
        Row(f"{name}: all agents, processor", "s", _middle(run.agents_cpu_s for run in runs)),
        Row(f"{name}: broker, peak resident", "MB", max(run.broker_mb for run in runs), limit=broker_limit),
        Row(f"{name}: broker grows while they fetch", "MB", max(run.broker_grown_mb for run in runs)),
        *(_controller_rows(name, runs) if count == most else []),
    ]


def _controller_rows(name: str, runs: list[SwarmRun]) -> list[Row]:
    serving = _middle(run.controller_cpu_s for run in runs)
    return [
        Row(f"{name}: controller, serving them", "s", serving, limit=CONTROLLER_LIMIT),
        Row(f"{name}: controller, seeding once", "s", _middle(run.seed_cpu_s for run in runs)),
    ]


def interrupted_swarm_rows(place: Place, cargo: Cargo) -> list[Row]:
    """Measure what comes to light agents that are killed and cut off all the while."""
    runs = [to_swarm(place, cargo, DEVICES, tls=True, interruptions=INTERRUPTIONS)]
    return _interrupted(f"{cargo.name} to {DEVICES}, interrupted {INTERRUPTIONS} x", cargo, runs[0].bytes_ratio, runs)


def _interrupted(name: str, cargo: Cargo, ratio: float, runs: Iterable[SwarmRun] = ()) -> list[Row]:
    allowed = min(MOST_ALLOWED, INTERRUPTIONS * window_bytes(DEFAULT_CHUNK_BYTES) / cargo.size_bytes)
    assert all(run.interruptions == INTERRUPTIONS for run in runs), "each was interrupted as often as was planned"
    return [
        Row(f"{name}: bytes to each", "of file", ratio),
        Row(f"{name}: a window each taken off", "of file", ratio - allowed, limit=INTERRUPTED_LIMIT),
    ]


def agent_rows(place: Place, cargo: Cargo) -> list[Row]:
    """Measure one real agent against every peer that is here, then with interruptions."""
    with seeded(place, cargo, place.folder / f"agent-{cargo.name}") as held:
        runs = [to_agent(place, cargo, held, number) for number in range(ROUNDS)]
        cut = to_interrupted_agent(place, cargo, held, INTERRUPTIONS, seed=1)
    name = f"{cargo.name} to one agent"
    speed = cargo.size_bytes / 1e6 / MEDIAN([run.took_s for run in runs])
    growth = GROWTH_LIMIT if cargo.size_bytes == LARGE_BYTES else None
    return [
        *(Row(f"{name}", "MB/s", speed, peer, against, limit) for against, peer, limit in peers(place, cargo)),
        Row(f"{name}: its processor", "s", _middle(run.cpu_s for run in runs)),
        Row(f"{name}: its memory grows by", "MB", max(run.grown_mb for run in runs), limit=growth),
        *_interrupted(f"{name}, interrupted {INTERRUPTIONS} x", cargo, cut.bytes_down / cargo.size_bytes),
        Row(f"{name}, interrupted {INTERRUPTIONS} x: time", "s", cut.took_s),
    ]


def peers(place: Place, cargo: Cargo) -> list[tuple[str, float | None, Limit | None]]:
    """Return name, megabytes a second (None when it is not here) and the limit against each peer."""
    megabytes = cargo.size_bytes / 1e6
    into = place.folder / "peer"
    found: list[tuple[str, float | None, Limit | None]] = []
    took_s = MEDIAN([limits.over_a_socket(cargo.path) for _ in range(ROUNDS)])
    found.append(("plain socket", megabytes / took_s, None))
    if absent := limits.missing("curl"):
        found.append((f"curl ({absent})", None, None))
    else:
        with limits.http_server(cargo.path.parent) as port:
            took_s = MEDIAN([limits.curl(port, cargo.path, into) for _ in range(ROUNDS)])
        found.append(("HTTP server, curl", megabytes / took_s, None))
    return [*found, *_mosquitto_peers(place, cargo, into)]


def _mosquitto_peers(place: Place, cargo: Cargo, into: Path) -> list[tuple[str, float | None, Limit | None]]:
    if absent := limits.missing("mosquitto_pub", "mosquitto_sub"):
        return [(f"mosquitto_sub ({absent})", None, SPEED_LIMIT)]
    megabytes, keys = cargo.size_bytes / 1e6, place.keys.controller
    device = light_credentials(place.keys.folder)
    with broker(place.folder / f"peer-{cargo.name}", place.keys, large_packets=True, light=True) as running:
        published_s = limits.mosquitto_pub(running, keys, cargo.path)
        secure = [limits.mosquitto_sub(running.port, device, cargo.path, into) for _ in range(ROUNDS)]
        plain = [limits.mosquitto_sub(running.plain_port, None, cargo.path, into) for _ in range(ROUNDS)]
    return [
        ("mosquitto_sub, TLS", megabytes / MEDIAN(secure), SPEED_LIMIT),
        ("mosquitto_sub, plain", megabytes / MEDIAN(plain), None),
        ("mosquitto_pub, TLS", megabytes / published_s, None),
    ]


def _middle(values: Iterable[float]) -> float:
    return MEDIAN(list(values))


def measure(*, quick: bool) -> Report:
    """Make keys and files, and measure."""
    logging.getLogger("dsops_agent").setLevel(logging.ERROR)  # the warnings of the cuts that are made here on purpose
    counts = QUICK_COUNTS if quick else COUNTS
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        place = Place.create(Path(name), DEVICES)
        files = [place.cargo(size) for size in (SMALL_BYTES, LARGE_BYTES)]
        rows = [row for cargo in files for row in agent_rows(place, cargo)]
        for cargo in files:
            rows += interrupted_swarm_rows(place, cargo)
        rows += single.delivery_rows(place, files[0], ROUNDS)
        rows += single.resumption_rows(place, files[0], ROUNDS)
        for cargo in files:
            for count in counts:
                for tls in (False, True):
                    rows += swarm_rows(place, cargo, count, max(counts), tls=tls)
    facts = {"chunk": "32 KiB", "window": f"{window_bytes(1)} chunks", "rounds": f"{ROUNDS} below 100 MB in all"}
    return Report("transfer", "Delivery through mosquitto on loopback", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(partial(measure, quick="--quick" in sys.argv[1:])))
