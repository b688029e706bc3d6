"""What the local inference API costs: our data process against LiteRT alone, a bare gRPC server, and MLServer.

All are asked for the same frames, in the type that the payload takes, in turns, and must give the same scores: a loop
around LiteRT in this process (the limit of what any server can do), the same loop in another process behind a plain
Unix socket and shared memory (the limit of what another process can do), our data process over its Unix sockets (gRPC,
the direct socket, and that with shared memory), a gRPC server with nothing but the interpreter, and MLServer. Ours
also checks the request, measures drift, chooses samples and keeps telemetry; the others do not. What several callers
could have at most is told by callers that ask nobody, each with the loop in its own process.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from measure.asking import WAYS, Ask, Frames, Loop
from measure.bare_server import LIMITS
from measure.callers import rate_of
from measure.child import child
from measure.mlserver_peer import mlserver, mlserver_python, mlserver_version
from measure.report import Limit, Report, Row, run
from measure.runtime import serving
from measure.served_models import ServedModel, make_models

from dsops.direct import direct_path
from dsops.errors import GoldenMismatch

BARE, GRPC, RAW, SHARED = "LiteRT in process", "ours, gRPC", "ours, direct", "ours, shared memory"
SERVER, PEER = "gRPC server, LiteRT only", "MLServer"
PROCESS, ALONE = "bare process", "no server"
ROUNDS = 5
ROUND_S = 1.0
SINGLES = (60, 300)
"""Fewest and most requests of a round; between them it lasts about ``ROUND_S``."""
BATCH = 32
BATCHES = 6
BATCH_BYTES = 3 << 20
"""Larger batches are not measured: MLServer takes messages of up to 4 MiB."""
WARM_UP = 30
CALLERS = 4
CALLERS_ROUNDS = 3
CALLERS_S = 1.5
MARK_BYTES = 150_528
"""The issue's marks of latency are for inputs of this size: 224 x 224 x 3."""

P50_LIMIT = Limit("figure", "<=", 350.0)
P99_LIMIT = Limit("figure", "<=", 1000.0)
SINGLE_LIMIT = Limit("ratio", "<=", 1.5)
BATCH_LIMIT = Limit("ratio", ">=", 0.7)
RATE_LIMIT = Limit("ratio", ">=", 3.0)
MEMORY_MB = 60.0
"""What the data process may hold over an interpreter that has the same model, besides the model's bytes once more."""


@dataclass
class Timings:
    """What one contender took: latencies in microseconds, a list a round."""

    latencies_us: list[list[float]] = field(default_factory=list)

    def quantile_us(self, share: float) -> float:
        """Return the median over the rounds of a round's quantile."""
        return float(np.median([np.quantile(latencies, share) for latencies in self.latencies_us]))

    def over_us(self, other: "Timings", share: float) -> float:
        """Return the median over the rounds of the difference of the two quantiles of a round."""
        pairs = zip(self.latencies_us, other.latencies_us, strict=True)
        return float(np.median([np.quantile(ours, share) - np.quantile(theirs, share) for ours, theirs in pairs]))


@dataclass(frozen=True)
class Contest:
    """One model and everybody who serves it: how to ask them, their processes, and by which way and where."""

    model: ServedModel
    asks: Mapping[str, Ask]
    pids: Mapping[str, int]
    addresses: Mapping[str, tuple[str, str]]


def contest(folder: Path, model: ServedModel, made: ExitStack) -> Contest:
    """Start everybody; MLServer only where it is installed."""
    name, payload = model.packed.manifest.model, model.packed.payload
    ours = made.enter_context(serving(folder, model.packed))
    plain = made.enter_context(child("measure.plain_server", str(folder / "plain.sock"), str(payload)))
    made.enter_context(child("measure.bare_server", str(folder / "bare.sock"), str(payload)))
    alone = made.enter_context(child("measure.interpreter", str(payload)))
    direct = str(direct_path(folder / "inference.sock"))
    addresses = {
        GRPC: ("grpc", f"unix:{folder}/inference.sock"),
        RAW: ("direct", direct),
        SHARED: ("shared", direct),
        SERVER: ("grpc", f"unix:{folder}/plain.sock"),
        PROCESS: ("bare", str(folder / "bare.sock")),
    }
    pids = {RAW: ours.pid, SERVER: plain.pid, BARE: alone.pid}
    if mlserver_python() is not None:
        process, address = made.enter_context(mlserver(folder, name, payload))
        pids[PEER], addresses[PEER] = process.pid, ("grpc", address)
    asks: dict[str, Ask] = {BARE: Loop(payload)}
    for who, (way, address) in addresses.items():
        asks[who] = made.enter_context((WAYS | LIMITS)[way](address, name, "scores", BATCH * model.frame_bytes))
    return Contest(model, asks, pids, addresses)


def check_equal(asks: Mapping[str, Ask], frames: Frames) -> None:
    """Check that all contenders do the same work.

    Raises:
        GoldenMismatch: They answer differently.
    """
    expected = asks[BARE](frames)
    for name, ask in asks.items():
        if not np.allclose(ask(frames), expected, rtol=0, atol=1e-6):
            raise GoldenMismatch(f"{name} gives other scores than LiteRT alone")


def in_turns(asks: Mapping[str, Ask], requests: list[Frames]) -> dict[str, Timings]:
    """Send every contender the requests, one after the other, in every round; who begins changes."""
    found = {name: Timings() for name in asks}
    names = list(asks)
    for number in range(ROUNDS):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            latencies = []
            for frames in requests:
                start_s = time.perf_counter()
                asks[name](frames)
                latencies.append((time.perf_counter() - start_s) * 1e6)
            found[name].latencies_us.append(latencies)
    return found


def singles_of(held: Contest) -> list[Frames]:
    """Return the requests of a round, as many as last about a second, after everybody has warmed up."""
    frames = held.model.frames
    for ask in held.asks.values():
        for number in range(WARM_UP):
            ask(frames[number % len(frames)][None])
    began_s = time.perf_counter()
    held.asks[RAW](frames[:1])
    count = int(np.clip(ROUND_S / (time.perf_counter() - began_s), *SINGLES))
    return [frames[number % len(frames)][None] for number in range(count)]


def single_rows(held: Contest) -> Iterator[Row]:
    """Yield what one caller sees who asks for a frame at a time."""
    found, name = in_turns(held.asks, singles_of(held)), held.model.name
    is_marked = held.model.frame_bytes == MARK_BYTES
    for share, text, limit in ((0.5, "p50", P50_LIMIT), (0.99, "p99", P99_LIMIT)):
        for who in (SHARED, RAW, GRPC):
            ours = found[who]
            yield Row(f"{name}: {who}, {text}", "us", ours.quantile_us(share), found[BARE].quantile_us(share), BARE)
            kept = limit if is_marked and who == SHARED else None
            yield Row(f"{name}: {who}, {text} over LiteRT", "us", ours.over_us(found[BARE], share), limit=kept)
        least, here = found[PROCESS], found[BARE]
        yield Row(f"{name}: {PROCESS}, {text}", "us", least.quantile_us(share), here.quantile_us(share), BARE)
        yield Row(f"{name}: {PROCESS}, {text} over LiteRT", "us", least.over_us(here, share))
        ours, plain = found[GRPC].quantile_us(share), found[SERVER].quantile_us(share)
        yield Row(f"{name}: {GRPC}, {text}", "us", ours, plain, SERVER, SINGLE_LIMIT if share == 0.5 else None)
        peer = found[PEER].quantile_us(share) if PEER in found else None
        yield Row(f"{name}: {SHARED}, {text}", "us", found[SHARED].quantile_us(share), peer, peer_name())


def batch_rows(held: Contest) -> Iterator[Row]:
    """Yield what one caller sees who asks for many frames at once."""
    frames = held.model.frames[:BATCH]
    if frames.nbytes > BATCH_BYTES:
        return
    asks = {who: ask for who, ask in held.asks.items() if who not in (SHARED, PROCESS)}
    found = in_turns(asks, [frames] * BATCHES)
    rates = {who: BATCH * 1e6 / timings.quantile_us(0.5) for who, timings in found.items()}
    name = f"{held.model.name}: batch of {BATCH}"
    for who in (RAW, GRPC):
        yield Row(f"{name}, {who}", "frames/s", rates[who], rates[BARE], BARE)
        yield Row(f"{name}, {who}", "frames/s", rates[who], rates[SERVER], SERVER, BATCH_LIMIT)
    yield Row(f"{name}, {RAW}", "frames/s", rates[RAW], rates.get(PEER), peer_name())


def callers_rows(folder: Path, held: Contest) -> Iterator[Row]:
    """Yield what several callers have together, in turns."""
    path, name = folder / "frames.npy", held.model.packed.manifest.model
    np.save(path, held.model.frames[:BATCH])
    asked = {**held.addresses, ALONE: ("alone", str(held.model.packed.payload))}
    rates: dict[str, list[float]] = {who: [] for who in asked}
    for _ in range(CALLERS_ROUNDS):
        for who, (way, address) in asked.items():
            rates[who].append(rate_of(way, address, name, path, CALLERS, CALLERS_S))
    median = {who: float(np.median(values)) for who, values in rates.items()}
    text = f"{held.model.name}: {CALLERS} callers"
    yield Row(f"{text}, gRPC", "requests/s", median[GRPC], median[SERVER], SERVER)
    yield Row(f"{text}, gRPC", "requests/s", median[GRPC], median.get(PEER), peer_name())
    yield Row(f"{text}, direct", "requests/s", median[RAW], median.get(PEER), peer_name())
    for who in (PROCESS, ALONE):
        yield Row(f"{text}, {who}", "requests/s", median[who], median.get(PEER), peer_name())
    limit = RATE_LIMIT if PEER in median else None
    yield Row(f"{text}, shared memory", "requests/s", median[SHARED], median.get(PEER), peer_name(), limit)


def memory_rows(held: Contest) -> Iterator[Row]:
    """Yield what the processes weigh after all that; the interpreter's has the same model loaded."""
    resident = {who: psutil.Process(pid).memory_info().rss / 1e6 for who, pid in held.pids.items()}
    name, ours = f"{held.model.name}: process, resident", resident[RAW]
    limit = Limit("figure", "<=", MEMORY_MB + held.model.packed.payload.stat().st_size / 1e6)
    yield Row(f"{name}, over the interpreter's", "MB", ours - resident[BARE], limit=limit)
    yield Row(name, "MB", ours, resident[BARE], BARE)
    yield Row(name, "MB", ours, resident.get(PEER), peer_name())


def peer_name() -> str:
    """Return how a row names MLServer; without it the row says so."""
    return PEER if mlserver_python() is not None else f"{PEER}: not installed"


def rows_of(model: ServedModel) -> list[Row]:
    """Measure one model."""
    with tempfile.TemporaryDirectory(prefix="ds") as name, ExitStack() as made:
        folder = Path(name)
        held = contest(folder, model, made)
        check_equal(held.asks, model.frames[:4])
        return [*single_rows(held), *batch_rows(held), *callers_rows(folder, held), *memory_rows(held)]


def measure() -> Report:
    """Build the models and measure each."""
    if mlserver_python() is None:
        sys.stderr.write("MLServer is not installed: tools/peers.sh mlserver makes its environment\n")
    loads, rows = [os.getloadavg()[0]], []
    with tempfile.TemporaryDirectory(prefix="dsops-bench-") as name:
        for model in make_models(Path(name)):
            rows += rows_of(model)
            loads.append(os.getloadavg()[0])
    facts = {"rounds": ROUNDS, "singles a round": f"{SINGLES[0]} to {SINGLES[1]}", PEER: mlserver_version()}
    facts["load"] = f"{min(loads):.1f} to {max(loads):.1f}"
    return Report("inference", "Local inference over a Unix socket, medians of the rounds", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
