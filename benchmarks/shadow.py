"""What a challenger in the shadow costs the champion: one caller at a steady rate, with and without copies, in turns.

The champion's data process and the challenger's are started as on a device. In half of the rounds a fifth of the
requests is copied to the challenger; in the other half there is none to copy to, though its process is there.
"""

import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from measure.interpreter import Floats
from measure.model import SEED, make_bundle
from measure.report import Limit, Report, Row, run
from measure.runtime import Served, serving
from numpy.typing import NDArray

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from dsops.api.v1 import telemetry_pb2
from dsops.modes import Mode
from dsops_agent.rival import Rival
from dsops_agent.runtime.cpu_allowance import process_cpu_s
from dsops_controller.demo.digits import splits

ROUNDS = 32
REQUESTS = 300
RATE = 200.0
SHARE = 0.2
CPU_SHARE = 0.25
WARM_UP = 200
P99_LIMIT = Limit("figure", "<=", 1.05)
CPU_LIMIT = Limit("figure", "<=", CPU_SHARE)


@dataclass
class Found:
    """Latencies in microseconds, a list a round, and what the challenger's process took."""

    latencies_us: list[list[float]] = field(default_factory=list)
    cpu_s: float = 0.0
    took_s: float = 0.0

    def quantile_us(self, share: float) -> float:
        """Return the median over the rounds of a round's quantile."""
        return float(np.median([np.quantile(latencies, share) for latencies in self.latencies_us]))


def ratios(on: Found, off: Found, share: float) -> NDArray[np.float64]:
    """Return a quantile with copies over that without, a value for each two rounds that were measured in turn.

    What else the machine did in those seconds fell on both; so their median says more than that of either side.
    """
    pairs = zip(on.latencies_us, off.latencies_us, strict=True)
    return np.array([np.quantile(with_copies, share) / np.quantile(without, share) for with_copies, without in pairs])


def one_round(stub: rpc.GRPCInferenceServiceStub, frames: list[Floats]) -> list[float]:
    """Send requests at the rate, each when it is due; return their latencies."""
    latencies, due_s = [], time.perf_counter()
    for frame in frames:
        time.sleep(max(0.0, due_s - time.perf_counter()))
        request = pb.ModelInferRequest(model_name="digits")
        request.inputs.add(name="image", datatype="FP32", shape=frame.shape)
        request.raw_input_contents.append(frame.tobytes())
        start_s = time.perf_counter()
        stub.ModelInfer(request, timeout=10.0, wait_for_ready=True)
        latencies.append((time.perf_counter() - start_s) * 1e6)
        due_s += 1 / RATE
    return latencies


def in_turns(stub: rpc.GRPCInferenceServiceStub, champion: Served, rival: Rival) -> dict[bool, Found]:
    """Measure with and without copies; who begins changes."""
    images = splits(SEED).held_out.x
    rng = np.random.default_rng(SEED)
    frames = [images[rng.integers(len(images), size=1)] for _ in range(REQUESTS)]
    one_round(stub, frames[:WARM_UP])
    found = {True: Found(), False: Found()}
    for number in range(ROUNDS):
        is_shadowed = number % 4 in (0, 3)
        rivals = {"digits": rival.model_dump(mode="json")} if is_shadowed else {}
        champion.channel.call("compare", rivals=rivals)
        began_s, cpu_s = time.perf_counter(), process_cpu_s(rival.pid)
        found[is_shadowed].latencies_us.append(one_round(stub, frames))
        found[is_shadowed].cpu_s += process_cpu_s(rival.pid) - cpu_s
        found[is_shadowed].took_s += time.perf_counter() - began_s
    champion.channel.call("compare", rivals={})
    return found


def compared(records: list[bytes]) -> int:
    """Return how many frames both answered."""
    return sum(telemetry_pb2.TelemetryRecord.FromString(record).comparison.compared for record in records)


def measure() -> Report:
    """Build the model and measure."""
    with tempfile.TemporaryDirectory(prefix="ds") as name, ExitStack() as made:
        folder = Path(name)
        bundle = make_bundle(folder)
        places = [folder / "a", folder / "b"]
        for place in places:
            place.mkdir()
        champion = made.enter_context(serving(places[0], bundle))
        challenger = made.enter_context(serving(places[1], bundle, shadow=True))
        rival = Rival(
            socket=str(places[1] / "inference.sock"),
            pid=challenger.pid,
            digest=bundle.digest,
            release=1,
            mode=Mode.SHADOW,
            share=SHARE,
            cpu_share=CPU_SHARE,
            salt="",
        )
        channel = made.enter_context(grpc.insecure_channel(f"unix:{places[0] / 'inference.sock'}"))
        found = in_turns(rpc.GRPCInferenceServiceStub(channel), champion, rival)
        time.sleep(2.5)  # until the last interval was reported
        count = compared(champion.records)
    on, off = found[True], found[False]
    apart = ratios(on, off, 0.99)
    against = "no challenger"
    rows = (
        Row("champion, p50", "us", on.quantile_us(0.5), off.quantile_us(0.5), against),
        Row("champion, p99", "us", on.quantile_us(0.99), off.quantile_us(0.99), against),
        Row("champion, p99 with copies over without, pair by pair", "", float(np.median(apart)), limit=P99_LIMIT),
        Row("the same: a quarter of the pairs is below", "", float(np.quantile(apart, 0.25))),
        Row("the same: a quarter of the pairs is above", "", float(np.quantile(apart, 0.75))),
        Row("challenger's process", "cores", on.cpu_s / on.took_s, off.cpu_s / off.took_s, against, CPU_LIMIT),
        Row("copies compared, of all requests", "share", count / (len(on.latencies_us) * REQUESTS)),
    )
    facts = {"model": "digits int8", "rounds": ROUNDS, "requests a round": REQUESTS, "requests/s": RATE, "share": SHARE}
    return Report("shadow", "A challenger in the shadow: one caller, Unix socket, medians of the rounds", facts, rows)


if __name__ == "__main__":
    sys.exit(run(measure))
