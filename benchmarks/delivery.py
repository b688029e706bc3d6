"""What it takes to bring a 5 MB bundle to ten devices through a real mosquitto, over mutual TLS on loopback.

Ours: content-addressed retained chunks, published by the controller's link, fetched by the agent's session and
transfer, every chunk checked, the file made durable. The peer: one retained message of 5 MB, plain paho-mqtt on both
sides, which all devices subscribe to, the cheapest way to send it whole. Each run has a broker with empty state.
"""

import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from measure.broker import Keys, broker
from measure.cable import cable
from measure.child import child
from measure.receivers import OurReceiver, PlainReceiver, Receiver
from measure.report import Limit, Report, Row, run

from dsops.bundle import sha256_hex
from dsops.chunks import index_of
from dsops.errors import TransferFailed
from dsops_agent.identity import Identity
from dsops_agent.install.fetch import Wanted

Result = TypeVar("Result")

BUNDLE_BYTES = 5_000_000
DEVICES = 10
ROUNDS = 3
CUT_ROUNDS = 3
ATTEMPTS = 3
OURS, PEER = "chunks", "single"
AGAINST = "one 5 MB message, paho"
AGAIN_LIMIT = Limit("figure", "<=", 10.0)


@dataclass(frozen=True)
class Place:
    """What all runs share: a folder, keys, devices, and the bundle."""

    folder: Path
    keys: Keys
    devices: tuple[Identity, ...]
    file: Path
    wanted: Wanted


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


def receive(way: str, identity: Identity, port: int, staging: Path, wanted: Wanted) -> Receiver:
    """Return a receiver that connects."""
    staging.mkdir(parents=True)
    return (OurReceiver if way == OURS else PlainReceiver)(identity, port, staging, wanted)


def deliver(place: Place, way: str, devices: tuple[Identity, ...], number: int) -> Delivery:
    """Deliver to devices that are connected already."""
    folder = place.folder / f"{way}-{len(devices)}-{number}"
    with ExitStack() as made:
        running = made.enter_context(broker(folder, place.keys, large_packets=way == PEER))
        arguments = (way, str(running.port), str(place.keys.folder), str(place.file))
        sender = made.enter_context(child("measure.sender", *arguments))
        receivers = [receive(way, i, running.port, folder / i.device, place.wanted) for i in devices]
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
        with ThreadPoolExecutor(len(devices)) as pool:
            list(pool.map(lambda receiver: receiver.fetch(), receivers))
        took_s = time.monotonic() - began_s
        if way == PEER:
            sent = json.loads(sender.stdout.readline())
        return Delivery(took_s, sent["cpu_s"], running.peak_mb)


def over_a_cable(place: Place, way: str, cut_after_bytes: int | None, number: int) -> Resumption:
    """Deliver to one device over a cable that may be cut; what is published is retained before the device comes."""
    folder = place.folder / f"{way}-cable-{number}"
    identity = place.devices[0]
    with ExitStack() as made:
        running = made.enter_context(broker(folder, place.keys, large_packets=way == PEER))
        arguments = (way, str(running.port), str(place.keys.folder), str(place.file))
        sender = made.enter_context(child("measure.sender", *arguments))
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
        sender.stdout.readline()
        line = made.enter_context(cable(running.port, cut_after_bytes))
        receiver = receive(way, identity, line.port, folder / identity.device, place.wanted)
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


def resumption_rows(place: Place) -> list[Row]:
    """Measure what comes down without a cut, and what comes again after one at half of the bundle."""
    whole = {way: patiently(partial(over_a_cable, place, way, None), way, 0).total_bytes for way in (OURS, PEER)}
    again: dict[str, list[float]] = {OURS: [], PEER: []}
    share: dict[str, list[float]] = {OURS: [], PEER: []}
    for number in range(1, CUT_ROUNDS + 1):
        for way in (OURS, PEER):
            cut = patiently(partial(over_a_cable, place, way, BUNDLE_BYTES // 2), way, number)
            extra = max(0, cut.total_bytes - whole[way])
            again[way].append(100 * extra / BUNDLE_BYTES)
            share[way].append(100 * extra / cut.before_bytes)
    middle = statistics.median
    return [
        Row("bytes to one device", "MB", whole[OURS] / 1e6, whole[PEER] / 1e6, AGAINST),
        Row("cut at half: bytes again", "% of bundle", middle(again[OURS]), middle(again[PEER]), AGAINST, AGAIN_LIMIT),
        Row("cut at half: bytes again", "% of what had come", middle(share[OURS]), middle(share[PEER]), AGAINST),
    ]


def delivery_rows(place: Place, count: int) -> list[Row]:
    """Measure deliveries to some devices, ours and the peer's in turns."""
    runs: dict[str, list[Delivery]] = {OURS: [], PEER: []}
    for number in range(ROUNDS):
        for way in (OURS, PEER) if number % 2 == 0 else (PEER, OURS):
            runs[way].append(patiently(partial(deliver, place, way, place.devices[:count]), way, number))
    to = "1 device" if count == 1 else f"{count} devices"
    figures = {
        (f"{to}: until the last has it", "s"): [[one.took_s for one in runs[way]] for way in (OURS, PEER)],
        (f"{to}: controller, processor", "ms"): [[one.cpu_s * 1000 for one in runs[way]] for way in (OURS, PEER)],
        (f"{to}: broker, peak resident", "MB"): [[one.broker_mb for one in runs[way]] for way in (OURS, PEER)],
    }
    return [
        Row(name, unit, statistics.median(ours), statistics.median(peer), AGAINST)
        for (name, unit), (ours, peer) in figures.items()
    ]


def measure() -> Report:
    """Make keys and a bundle's worth of random bytes, and measure."""
    logging.getLogger("dsops_agent").setLevel(logging.ERROR)  # the warnings of the cuts that are made here on purpose
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        folder = Path(name)
        keys = Keys.create(folder / "keys")
        data = os.urandom(BUNDLE_BYTES)
        (folder / "bundle").write_bytes(data)
        devices = tuple(keys.device(f"cam-{number}") for number in range(DEVICES))
        wanted = Wanted(sha256_hex(data), len(data), index_of(data).digest)
        place = Place(folder, keys, devices, folder / "bundle", wanted)
        rows = [*delivery_rows(place, 1), *delivery_rows(place, DEVICES), *resumption_rows(place)]
    facts = {"bundle": "5 MB", "devices": DEVICES, "rounds": ROUNDS, "cuts": CUT_ROUNDS}
    return Report("delivery", "Delivery through mosquitto over mutual TLS, medians", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
