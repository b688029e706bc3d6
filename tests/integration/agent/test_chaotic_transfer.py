"""A bad courier between a device and a real broker: what was sent arrives, identical, in bounded memory."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos import Chaos, ConnectionReset, Ills
from chaos_proxy import Between, ChaosProxy, chaos_proxy
from chaotic_transfer import Receiver, T
from measure.packets import Packet, Splitter, message_of, publish, subscribe
from memory_peak import MemoryPeak

from dsops.bundle import sha256_hex
from dsops.chunks import index_of, split
from dsops.clock import SystemClock
from dsops_agent.install.fetch import Pace, Wanted
from dsops_controller.server.answers import Answer, Answers
from dsops_controller.server.intake import Effects, Intake

pytestmark = pytest.mark.integration

CAM = "cam-1"
CHUNK_BYTES = 32 * 1024
GROWTH_BYTES = 12_000_000
"""What a transfer of any length may need, with the controller's answers under way, which are in this process, too; half
of the shortest file here, so whatever keeps what comes exceeds it."""
PACE = Pace(window=8, timeout_s=0.15)
BAD = Ills(duplicate=0.05, drop=0.02, reorder=0.05, corrupt=0.02, reset_after=150, pieces=True)
WORSE = Ills(duplicate=0.2, drop=0.1, reorder=0.2, corrupt=0.1, reset_after=100, bytes_per_s=4e6, pieces=True)


class Answering:
    """The controller's side: chunks retained, and sent again by the controller's own intake and queue of requests."""

    def __init__(self, controller: Any, data: bytes) -> None:
        index = index_of(data, CHUNK_BYTES)
        self.answered = 0
        self.chunks = {sha256_hex(piece): piece for piece in (index.encode(), *split(data, CHUNK_BYTES))}
        self._named = {index.digest: index.digests}
        self._controller = controller
        self._seen = 0
        self._waiting = Answers(SystemClock())
        effects = Effects(answer=self._waiting.ask, wake=lambda: None, record=lambda *_: None)
        self._intake = Intake(T, self, effects, SystemClock())
        while not controller.client.is_connected():
            time.sleep(0.005)
        sent = [controller.client.publish(T.chunk(name), piece, 1, retain=True) for name, piece in self.chunks.items()]
        for info in sent:
            info.wait_for_publish(20)

    def __call__(self) -> None:
        messages = self._controller.messages
        while self._seen < len(messages):
            topic, payload = messages[self._seen]
            self._seen += 1
            if topic == T.need(CAM):
                self._intake.handle(topic, payload)
        while asked := self._waiting.take():
            self._send(asked)

    def _send(self, asked: Answer) -> None:
        digest = asked.digest
        if asked.number >= 0:
            named = self._named.get(asked.digest, ())
            digest = named[asked.number] if asked.number < len(named) else ""
        if digest not in self.chunks:  # the request was corrupted on its way
            return
        self.answered += 1
        payload = bytes.fromhex(digest) + self.chunks[digest]
        self._controller.client.publish(T.chunk_answer(asked.device), payload, qos=1)

    # The register of devices, as far as requests for chunks need it.

    def require_accepted(self, device: str) -> None:
        assert device == CAM

    def connection(self, _message: object) -> bool:
        raise AssertionError("only requests are handed in")

    def observed(self, _device: str, _data: bytes) -> None:
        raise AssertionError("only requests are handed in")


Stage = Callable[[Ills, int], tuple[ChaosProxy, Receiver]]


@pytest.fixture
def stage(tmp_path: Path, pki: Any, broker: Any) -> Iterator[Stage]:
    """Return a device whose way to the broker goes through chaos."""
    identity = pki.identity(tmp_path / "identity", CAM, broker.address, "localhost:1")
    files = {CAM: (identity.certificate_path, identity.key_path)}
    made: list[ChaosProxy | Receiver] = []

    def make(ills: Ills, seed: int) -> tuple[ChaosProxy, Receiver]:
        proxy = ChaosProxy(Between(0, broker.port, pki.folder, files.__getitem__), ills, seed)
        proxy.start()
        receiver = Receiver(identity, proxy.port, tmp_path / "staging", PACE)
        receiver.start()
        made.extend((proxy, receiver))
        return proxy, receiver

    yield make
    for one in reversed(made):
        one.stop()


def deliver(stage: Stage, controller: Any, ills: Ills, seed: int, size: int) -> tuple[ChaosProxy, Receiver, Answering]:
    data = random.Random(seed).randbytes(size)
    answering = Answering(controller, data)
    proxy, receiver = stage(ills, seed)
    peak = MemoryPeak(os.getpid())
    got = receiver.fetch(Wanted(sha256_hex(data), len(data), index_of(data, CHUNK_BYTES).digest), answering)
    grown = peak.growth_bytes()
    assert got.read_bytes() == data
    assert receiver.is_deceived or not receiver.wrong, "what was corrupted would have done harm"
    print(
        f"seed {seed}: {dict(proxy.done)}, {receiver.session.figures.connections} connections, {receiver.wrong} wrong,"
        f" {answering.answered} answered, {receiver.attempts} attempts,"
        f" peak memory of the whole test process +{grown} bytes"
    )
    assert size >= 2 * GROWTH_BYTES
    assert grown <= GROWTH_BYTES
    return proxy, receiver, answering


def test_a_transfer_through_a_bad_courier_ends_identical(stage: Stage, controller: Any) -> None:
    proxy, receiver, answering = deliver(stage, controller, BAD, seed=3, size=24_000_000)
    assert receiver.wrong
    assert answering.answered
    assert all(proxy.done[ill] for ill in ("duplicate", "drop", "reorder", "corrupt", "reset")), proxy.done


@pytest.mark.slow
def test_over_a_slow_link_each_chunk_comes_once(tmp_path: Path, pki: Any, broker: Any, controller: Any) -> None:
    """A chunk takes three times as long as a chunk's timer, and several wait for each other."""
    identity = pki.identity(tmp_path / "identity", CAM, broker.address, "localhost:1")
    files = {CAM: (identity.certificate_path, identity.key_path)}
    data = random.Random(1).randbytes(6 * CHUNK_BYTES)
    answering = Answering(controller, data)
    with chaos_proxy(Between(0, broker.port, pki.folder, files.__getitem__), Ills(bytes_per_s=20_000), 1) as proxy:
        receiver = Receiver(identity, proxy.port, tmp_path / "staging", Pace(window=8, timeout_s=0.5))
        receiver.start()
        got = receiver.fetch(Wanted(sha256_hex(data), len(data), index_of(data, CHUNK_BYTES).digest), answering)
        receiver.stop()
    assert got.read_bytes() == data
    assert (receiver.came, receiver.attempts, answering.answered) == (7, 1, 0), "the index and six chunks, each once"


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ills", [BAD, WORSE], ids=["bad", "worse"])
def test_a_transfer_through_any_bad_courier_ends_identical(
    stage: Stage, controller: Any, ills: Ills, seed: int
) -> None:
    deliver(stage, controller, ills, seed=seed, size=24_000_000)


def befallen(ills: Ills, packets: list[Packet]) -> list[bytes]:
    """Return the payloads that come through chaos."""
    chaos, out = Chaos(ills, random.Random(1), Counter()), b""
    for packet in packets:
        out += b"".join(chaos.take(packet))
    out += b"".join(chaos.release())
    return [p.body[message_of(p).start :] for p in Splitter().feed(out)]


def numbered(count: int) -> list[Packet]:
    made = b"".join(publish(number + 1, "t", b"%d" % number) for number in range(count))
    return list(Splitter().feed(made))


def test_chaos_does_what_it_says() -> None:
    packets = numbered(1000)
    sent = [b"%d" % number for number in range(1000)]
    assert befallen(Ills(), packets) == sent
    assert 30 < 1000 - len(befallen(Ills(drop=0.05), packets)) < 80
    twice = befallen(Ills(duplicate=0.05), packets)
    assert 1030 < len(twice) < 1080
    assert set(twice) == set(sent)
    swapped = befallen(Ills(reorder=0.05), packets)
    assert swapped != sent
    assert sorted(swapped) == sorted(sent)
    corrupted = befallen(Ills(corrupt=0.05), packets)
    assert 30 < sum(a != b for a, b in zip(corrupted, sent, strict=True)) < 80
    with pytest.raises(ConnectionReset):
        befallen(Ills(reset_after=50), packets)


def test_a_stream_cut_anywhere_is_the_same_packets() -> None:
    stream = publish(1, "a/b", bytes(300)) + subscribe(2, ["c/d"], 0) + publish(3, "e", b"", retain=True)
    whole = list(Splitter().feed(stream))
    assert len(whole) == 3
    assert b"".join(packet.encode() for packet in whole) == stream
    splitter = Splitter()
    assert [packet for byte in stream for packet in splitter.feed(bytes((byte,)))] == whole
