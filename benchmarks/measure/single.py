"""The peer of delivery: everything in one retained message, plain paho-mqtt on both sides; also over a cut cable."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from dsops.errors import TransferFailed
from dsops_agent.identity import Identity
from measure.broker import broker
from measure.cable import cable
from measure.child import child
from measure.place import Cargo, Place
from measure.receivers import OurReceiver, PlainReceiver, Receiver
from measure.report import Limit, Row

Result = TypeVar("Result")

ATTEMPTS = 3
OURS, PEER = "chunks", "single"
AGAINST = "one message, paho"
AGAIN_LIMIT = Limit("figure", "<=", 10.0)


@dataclass(frozen=True)
class Delivery:
    """One delivery: seconds until the last device has it, the controller's processor time, the broker's peak."""

    took_s: float
    cpu_s: float
    broker_mb: float


@dataclass(frozen=True)
class Resumption:
    """One delivery to one device over a cable: bytes that came down before the cut and altogether."""

    before_bytes: int
    total_bytes: int


def receive(way: str, identity: Identity, port: int, staging: Path, cargo: Cargo) -> Receiver:
    """Return a receiver that connects."""
    staging.mkdir(parents=True)
    return (OurReceiver if way == OURS else PlainReceiver)(identity, port, staging, cargo.wanted)


def deliver(place: Place, cargo: Cargo, way: str, number: int) -> Delivery:
    """Deliver to devices that are connected already."""
    folder = place.folder / f"{way}-all-{number}"
    with ExitStack() as made:
        running = made.enter_context(broker(folder, place.keys, large_packets=way == PEER))
        arguments = (way, str(running.port), str(place.keys.folder), str(cargo.path))
        sender = made.enter_context(child("measure.sender", *arguments))
        receivers = [receive(way, i, running.port, folder / i.device, cargo) for i in place.devices]
        for receiver in receivers:
            made.callback(receiver.close)
        for receiver in receivers:
            receiver.wait_connected()
        assert sender.stdin is not None
        assert sender.stdout is not None
        began_s = time.monotonic()
        sender.stdin.write("go\n")
        sender.stdin.flush()
        if way == OURS:
            sent = json.loads(sender.stdout.readline())
        with ThreadPoolExecutor(len(receivers)) as pool:
            list(pool.map(lambda receiver: receiver.fetch(), receivers))
        took_s = time.monotonic() - began_s
        if way == PEER:
            sent = json.loads(sender.stdout.readline())
        return Delivery(took_s, sent["cpu_s"], running.peak_mb)


def over_a_cable(place: Place, cargo: Cargo, way: str, cut_after_bytes: int | None, number: int) -> Resumption:
    """Deliver to one device over a cable that may be cut; what is published is retained before the device comes."""
    folder = place.folder / f"{way}-cable-{number}"
    identity = place.devices[0]
    with ExitStack() as made:
        running = made.enter_context(broker(folder, place.keys, large_packets=way == PEER))
        arguments = (way, str(running.port), str(place.keys.folder), str(cargo.path))
        sender = made.enter_context(child("measure.sender", *arguments))
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
        sender.stdout.readline()
        line = made.enter_context(cable(running.port, cut_after_bytes))
        receiver = receive(way, identity, line.port, folder / identity.device, cargo)
        made.callback(receiver.close)
        receiver.wait_connected()
        receiver.fetch()
        return Resumption(line.down_bytes[0], sum(line.down_bytes))


def patiently(attempt: Callable[[int], Result], way: str, number: int) -> Result:
    """Run once; the peer again when it stalls, for now and then its large message stops half-way for good.

    Raises:
        TransferFailed: Ours failed, or the peer stalled every time.
    """
    for _ in range(ATTEMPTS - 1 if way == PEER else 0):
        try:
            return attempt(number)
        except TransferFailed as error:
            sys.stderr.write(f"the peer stalled: {error}\n")
            number += 100
    return attempt(number)


def resumption_rows(place: Place, cargo: Cargo, rounds: int) -> list[Row]:
    """Measure what comes down without a cut, and what comes again after one at half of the file."""
    whole = {way: patiently(partial(over_a_cable, place, cargo, way, None), way, 0).total_bytes for way in (OURS, PEER)}
    again: dict[str, list[float]] = {OURS: [], PEER: []}
    for number in range(1, rounds + 1):
        for way in (OURS, PEER):
            cut = patiently(partial(over_a_cable, place, cargo, way, cargo.size_bytes // 2), way, number)
            again[way].append(100 * max(0, cut.total_bytes - whole[way]) / cargo.size_bytes)
    middle = statistics.median
    name = f"{cargo.name} to one device"
    return [
        Row(f"{name}: bytes", "MB", whole[OURS] / 1e6, whole[PEER] / 1e6, AGAINST),
        Row(f"{name}, cut at half: again", "% of file", middle(again[OURS]), middle(again[PEER]), AGAINST, AGAIN_LIMIT),
    ]


def delivery_rows(place: Place, cargo: Cargo, rounds: int) -> list[Row]:
    """Measure deliveries to all devices of the place, ours and the peer's in turns."""
    runs: dict[str, list[Delivery]] = {OURS: [], PEER: []}
    for number in range(rounds):
        for way in (OURS, PEER) if number % 2 == 0 else (PEER, OURS):
            runs[way].append(patiently(partial(deliver, place, cargo, way), way, number))
    to = f"{cargo.name} to {len(place.devices)} devices"
    figures = {
        (f"{to}, published and fetched", "s"): [[one.took_s for one in runs[way]] for way in (OURS, PEER)],
        (f"{to}: controller, processor", "ms"): [[one.cpu_s * 1000 for one in runs[way]] for way in (OURS, PEER)],
        (f"{to}: broker, peak resident", "MB"): [[one.broker_mb for one in runs[way]] for way in (OURS, PEER)],
    }
    return [
        Row(name, unit, statistics.median(ours), statistics.median(peer), AGAINST)
        for (name, unit), (ours, peer) in figures.items()
    ]
