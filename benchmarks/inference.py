"""What the local inference API costs: our data process against LiteRT alone and against a server with nothing but it.

All three answer the same frames with the same int8 model, in turns, and must give the same scores. Ours also checks the
request, measures drift, chooses samples and keeps telemetry; the peers do not.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psutil
from measure.child import child
from measure.interpreter import BareInterpreter, Floats
from measure.model import SEED, Packed, make_bundle
from measure.report import Limit, Report, Row, run
from measure.runtime import serving

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from dsops.errors import GoldenMismatch
from dsops_controller.demo.digits import splits

OURS, SERVER, BARE = "ours", "gRPC server, LiteRT only", "LiteRT in process"
ROUNDS = 15
SINGLES = 250
BATCH = 32
BATCHES = 40
WARM_UP = 200
SINGLE_LIMIT = Limit("ratio", "<=", 1.5)
BATCH_LIMIT = Limit("ratio", ">=", 0.7)

Ask = Callable[[Floats], Floats]


@dataclass
class Timings:
    """What one contender took: latencies in microseconds, a list a round, and its rate in each round."""

    latencies_us: list[list[float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def quantile_us(self, share: float) -> float:
        """Return the median over the rounds of a round's quantile."""
        return float(np.median([np.quantile(latencies, share) for latencies in self.latencies_us]))

    @property
    def rate(self) -> float:
        """Median of the rounds' requests a second."""
        return float(np.median(self.rates))


def client(channel: grpc.Channel) -> Ask:
    """Return a function that asks a server over the protocol, as a program on the device would."""
    stub = rpc.GRPCInferenceServiceStub(channel)

    def ask(frames: Floats) -> Floats:
        request = pb.ModelInferRequest(model_name="digits")
        request.inputs.add(name="image", datatype="FP32", shape=frames.shape)
        request.raw_input_contents.append(frames.tobytes())
        response = stub.ModelInfer(request, timeout=10.0, wait_for_ready=True)
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(len(frames), -1)

    return ask


def one_round(ask: Ask, requests: list[Floats], into: Timings) -> None:
    """Send requests one after the other."""
    latencies = []
    began_s = time.perf_counter()
    for frames in requests:
        start_s = time.perf_counter()
        ask(frames)
        latencies.append((time.perf_counter() - start_s) * 1e6)
    into.rates.append(len(requests) / (time.perf_counter() - began_s))
    into.latencies_us.append(latencies)


def in_turns(asks: Mapping[str, Ask], requests: list[Floats]) -> dict[str, Timings]:
    """Measure every contender in every round; who begins changes."""
    found = {name: Timings() for name in asks}
    names = list(asks)
    for number in range(ROUNDS):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            one_round(asks[name], requests, found[name])
    return found


def check_equal(asks: Mapping[str, Ask], frames: Floats) -> None:
    """Check that all contenders do the same work.

    Raises:
        GoldenMismatch: They answer differently.
    """
    expected = asks[BARE](frames)
    for name, ask in asks.items():
        if not np.array_equal(ask(frames), expected):
            raise GoldenMismatch(f"{name} gives other scores than LiteRT alone")


def rows_of(singles: Mapping[str, Timings], batches: Mapping[str, Timings], rss: Mapping[str, float]) -> list[Row]:
    """Return the table."""
    rows = []
    for peer in (SERVER, BARE):
        a, b = singles[OURS], singles[peer]
        limit = SINGLE_LIMIT if peer == SERVER else None
        rows.append(Row("single frame, p50", "us", a.quantile_us(0.5), b.quantile_us(0.5), peer, limit))
        rows.append(Row("single frame, p99", "us", a.quantile_us(0.99), b.quantile_us(0.99), peer))
        rows.append(Row("single frame", "requests/s", a.rate, b.rate, peer))
        a, b = batches[OURS], batches[peer]
        limit = BATCH_LIMIT if peer == SERVER else None
        rows.append(Row(f"batch of {BATCH}, p50", "us", a.quantile_us(0.5), b.quantile_us(0.5), peer))
        rows.append(Row(f"batch of {BATCH}, p99", "us", a.quantile_us(0.99), b.quantile_us(0.99), peer))
        rows.append(Row(f"batch of {BATCH}", "frames/s", a.rate * BATCH, b.rate * BATCH, peer, limit))
        rows.append(Row("process, resident", "MB", rss[OURS], rss[peer], peer))
    return rows


def resident_mb(pid: int) -> float:
    """Return a process's resident memory."""
    return float(psutil.Process(pid).memory_info().rss / 1e6)


def measure_in(folder: Path, bundle: Packed, made: ExitStack) -> list[Row]:
    """Start the contenders and measure them."""
    ours = made.enter_context(serving(folder, bundle))
    socket = folder / "peer.sock"
    plain = made.enter_context(child("measure.plain_server", str(socket), str(bundle.payload)))
    alone = made.enter_context(child("measure.interpreter", str(bundle.payload)))
    channels = [grpc.insecure_channel(f"unix:{path}") for path in (folder / "inference.sock", socket)]
    for channel in channels:
        made.callback(channel.close)
    asks = {OURS: client(channels[0]), SERVER: client(channels[1]), BARE: BareInterpreter(bundle.payload).run}
    frames = splits(SEED).held_out.x
    check_equal(asks, frames)
    rng = np.random.default_rng(SEED)
    singles = [frames[rng.integers(len(frames), size=1)] for _ in range(SINGLES)]
    batches = [frames[rng.integers(len(frames), size=BATCH)] for _ in range(BATCHES)]
    for ask in asks.values():
        one_round(ask, singles[:WARM_UP], Timings())
    by_single, by_batch = in_turns(asks, singles), in_turns(asks, batches)
    rss = {OURS: resident_mb(ours.pid), SERVER: resident_mb(plain.pid), BARE: resident_mb(alone.pid)}
    return rows_of(by_single, by_batch, rss)


def measure() -> Report:
    """Build the model and measure."""
    with tempfile.TemporaryDirectory(prefix="ds") as name, ExitStack() as made:
        folder = Path(name)
        rows = measure_in(folder, make_bundle(folder), made)
    facts = {"model": "digits int8", "rounds": ROUNDS, "singles a round": SINGLES, "batches a round": BATCHES}
    return Report("inference", "Local inference: one caller, Unix socket, medians of the rounds", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
