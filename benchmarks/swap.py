"""What a change of release costs those who ask meanwhile: errors, answers of a mix, time, memory.

A caller asks 200 times a second, and a large network 50 times. In half of the time nothing changes; in the other half a
new release takes the place of the one before, again and again, as on a device: activation, then the golden inputs once
more. Neighbouring releases have other weights, so each answer shows which one gave it, and is compared with what LiteRT
says alone.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import numpy as np
import psutil
from measure.asking import Floats, Loop
from measure.mlserver_peer import mlserver, mlserver_python, mlserver_version
from measure.report import Limit, Report, Row, run
from measure.runtime import INTERVAL_S, serving
from measure.served_models import PLANS, Plan, ServedModel, make_model
from measure.steady import Heard, SteadyCaller, digest_of, unsaid

from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from dsops.bundle import Bundle, encode_bundle, sha256_hex
from dsops_agent.supervisor import CHECK_S

ROUNDS = 5
EVERY_S = 0.1
"""From one swap to the next, unless it takes longer."""
WARM_UP = 200
SETTLE_S = 2.5 * INTERVAL_S
"""Until who watched the last release has reported, and is gone."""
FRAMES = 16

NONE = Limit("figure", "<=", 0)
P99_LIMIT = Limit("figure", "<=", 2.0)
MEMORY_LIMIT = Limit("ratio", "<=", 1.05)
PEER = "MLServer"


@dataclass(frozen=True)
class Traffic:
    """How often a model is asked, how many swaps there are, and how many requests a steady round has."""

    rate_hz: float
    swaps: int
    steady: int


SMALL, LARGE = Traffic(200.0, 100, 400), Traffic(50.0, 20, 300)
MODELS = {"kws": SMALL, "resnet8": SMALL, "mobilenet-v2": LARGE}


@dataclass
class Found:
    """What one server did, a pair a round: steady, and while releases changed."""

    rounds: list[tuple[Heard, Heard]] = field(default_factory=list)
    swap_s: list[float] = field(default_factory=list)
    resident_mb: tuple[float, float] = (0.0, 0.0)

    def count(self, what: Callable[[Heard], int]) -> int:
        """Return the sum of a count over all rounds."""
        return sum(what(heard) for pair in self.rounds for heard in pair)

    def quantile_us(self, share: float, swapping: int) -> float:
        """Return the median over the rounds of a round's quantile."""
        return float(np.median([pair[swapping].quantile_us(share) for pair in self.rounds]))

    def ratio(self, share: float) -> float:
        """Return the median over the rounds of a quantile's ratio, of swapping to steady."""
        return float(np.median([pair[1].quantile_us(share) / pair[0].quantile_us(share) for pair in self.rounds]))


@dataclass(frozen=True)
class Contender:
    """A server that answers, and how its release is changed: by a function that does it once."""

    caller: SteadyCaller
    pid: int
    swap: Callable[[], None]


@dataclass(frozen=True)
class Pair:
    """Two models of one name and shape with other weights; releases take them in turns."""

    models: tuple[ServedModel, ServedModel]
    traffic: Traffic

    @property
    def name(self) -> str:
        """The model's name."""
        return self.models[0].packed.manifest.model

    def right(self, which: int) -> Floats:
        """Return what LiteRT alone gives."""
        return Loop(self.models[which].packed.payload)(self.models[0].frames[:FRAMES])

    def release(self, number: int, folder: Path) -> tuple[Path, str]:
        """Write the bundle of a release; return it and its digest."""
        packed = self.models[number % 2].packed
        bundle = Bundle.open(packed.path)
        manifest = packed.manifest.model_copy(update={"release": number})
        data = encode_bundle(manifest, {blob.name: bundle.read(blob.name) for blob in manifest.blobs})
        path = folder / f"{number}.bundle"
        path.write_bytes(data)
        return path, sha256_hex(data)


def make_pair(folder: Path, plan: Plan) -> Pair:
    """Build both models of a pair."""
    made = []
    for seed in (0, 1):
        (folder / str(seed)).mkdir()
        made.append(next(iter(make_model(folder / str(seed), replace(plan, variants=("int8",)), seed))))
    return Pair((made[0], made[1]), MODELS[plan.name])


def in_turns(held: Contender, traffic: Traffic) -> Found:
    """Measure steady and swapping rounds in turns; who begins changes."""
    found = Found()
    for _ in range(2):  # the second swap is the first that takes the place of one
        held.caller.ask_while(held.swap, WARM_UP)
    for _ in range(2):  # until there is what a process keeps without a swap too, such as the samples of a period
        held.caller.ask_while(lambda: None, traffic.steady)
    held.caller.ask_while(lambda: time.sleep(SETTLE_S), 0)
    after_one = psutil.Process(held.pid).memory_info().rss / 1e6
    a_round = traffic.swaps // ROUNDS

    def steady() -> Heard:
        return held.caller.ask_while(lambda: None, traffic.steady)

    def swapping() -> Heard:
        return held.caller.ask_while(lambda: _swap_often(held.swap, a_round, found.swap_s), 0)

    for number in range(ROUNDS):
        if number % 2:
            after, before = swapping(), steady()
        else:
            before, after = steady(), swapping()
        found.rounds.append((before, after))
    held.caller.ask_while(lambda: time.sleep(SETTLE_S), 0)
    found.resident_mb = after_one, psutil.Process(held.pid).memory_info().rss / 1e6
    return found


def _swap_often(swap: Callable[[], None], count: int, took_s: list[float]) -> None:
    due_s = time.perf_counter()
    for _ in range(count):
        time.sleep(max(0.0, due_s - time.perf_counter()))
        began_s = time.perf_counter()
        swap()
        took_s.append(time.perf_counter() - began_s)
        due_s = max(due_s + EVERY_S, time.perf_counter())


def ours(folder: Path, pair: Pair, made: ExitStack) -> Contender:
    """Start our data process; each swap is a release of its own."""
    served = made.enter_context(serving(folder, pair.models[0].packed))
    channel = made.enter_context(grpc.insecure_channel(f"unix:{folder / 'inference.sock'}"))
    stub = rpc.GRPCInferenceServiceStub(channel)
    caller = SteadyCaller(stub, pair.name, pair.models[0].frames[:FRAMES], pair.traffic.rate_hz, digest_of)
    rights = pair.right(0), pair.right(1)
    caller.expect(pair.models[0].packed.digest, rights[0])
    releases = folder / "releases"
    releases.mkdir()
    waiting = []
    for number in range(3, pair.traffic.swaps + 5):
        path, digest = pair.release(number, releases)
        caller.expect(digest, rights[number % 2])
        waiting.append((number, path, digest))
    waiting.reverse()
    active = [pair.models[0].packed.digest]

    def swap() -> None:
        number, path, digest = waiting.pop()
        served.channel.call("activate", model=pair.name, path=str(path), digest=digest, release=number)
        caller.replaced(active.pop())
        active.append(digest)
        served.channel.call("check", model=pair.name, timeout_s=CHECK_S)
        path.unlink()

    return Contender(caller, served.pid, swap)


def peer(folder: Path, pair: Pair, made: ExitStack) -> Contender:
    """Start MLServer; a swap is a load by its repository, which reads the new model before it unloads the old one."""
    payload = pair.models[0].packed.payload
    process, address = made.enter_context(mlserver(folder, pair.name, payload))
    channel = made.enter_context(grpc.insecure_channel(address))
    caller = SteadyCaller(
        rpc.GRPCInferenceServiceStub(channel), pair.name, pair.models[0].frames[:FRAMES], pair.traffic.rate_hz, unsaid
    )
    for which in (0, 1):
        caller.expect("", pair.right(which))
    load = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
    settings, turn = folder / "mlserver/model-settings.json", [0]

    def swap() -> None:
        turn[0] += 1
        told = json.loads(settings.read_text())
        told["parameters"]["uri"] = str(pair.models[turn[0] % 2].packed.payload)
        settings.write_text(json.dumps(told))
        name = pair.name.encode()
        load(b"\x12" + bytes([len(name)]) + name, timeout=60.0)  # field 2 of RepositoryModelLoadRequest

    return Contender(caller, process.pid, swap)


def rows_of(pair: Pair) -> Iterator[Row]:
    """Measure one pair of models, and yield what was found."""
    found: dict[str, Found] = {}
    for start in (ours, peer):
        if start is peer and mlserver_python() is None:
            continue
        with tempfile.TemporaryDirectory(prefix="ds") as name, ExitStack() as made:
            found[start.__name__] = in_turns(start(Path(name), pair, made), pair.traffic)
    mine, name = found["ours"], pair.models[0].name
    theirs, against = found.get("peer"), PEER if mlserver_python() else f"{PEER}: not installed"

    def told(what: Callable[[Found], float]) -> tuple[float, float | None, str]:
        return what(mine), what(theirs) if theirs else None, against

    yield Row(f"{name}: requests without an answer", "", *told(lambda one: one.count(lambda h: len(h.errors))), NONE)
    yield Row(f"{name}: answers of a mix", "", *told(lambda one: one.count(lambda h: h.mixed)), NONE)
    yield Row(f"{name}: answers by a replaced release", "", mine.count(lambda h: h.late), limit=NONE)
    for share, text in ((0.5, "p50"), (0.99, "p99")):
        values = mine.quantile_us(share, 1), mine.quantile_us(share, 0), "the same, steady"
        yield Row(f"{name}: {text} during swaps", "us", *values)
    limit = P99_LIMIT
    yield Row(f"{name}: p99 during swaps over steady, round by round", "", *told(lambda one: one.ratio(0.99)), limit)
    yield Row(f"{name}: the same, longest", "", *told(lambda one: one.ratio(1.0)))
    yield Row(f"{name}: a swap", "ms", *told(lambda one: 1e3 * float(np.median(one.swap_s))))
    before, after = mine.resident_mb
    yield Row(f"{name}: memory after {pair.traffic.swaps} swaps", "MB", after, before, "after one", MEMORY_LIMIT)
    if theirs:
        before, after = theirs.resident_mb
        yield Row(f"{name}: the same, {PEER}", "MB", after, before, "after one")


def measure() -> Report:
    """Build the models and measure each."""
    loads, rows = [os.getloadavg()[0]], []
    for plan in (p for p in PLANS if p.name in os.environ.get("ONLY", "kws resnet8 mobilenet-v2").split()):
        if plan.name in MODELS:
            with tempfile.TemporaryDirectory(prefix="dsops-bench-") as name:
                rows += rows_of(make_pair(Path(name), plan))
            loads.append(os.getloadavg()[0])
    facts: dict[str, object] = {
        f"{name}, requests/s, swaps": f"{one.rate_hz:g}, {one.swaps}" for name, one in MODELS.items()
    }
    facts |= {"rounds": ROUNDS, PEER: mlserver_version()}
    facts["load"] = f"{min(loads):.1f} to {max(loads):.1f}"
    return Report("swap", "A change of release under traffic: medians of the rounds", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
