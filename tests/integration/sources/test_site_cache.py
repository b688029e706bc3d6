"""The site cache with real mosquittos: neighbours that fetch nothing from the fleet's broker, and caches that lie."""

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_broker import FakeBroker, accept
from http_servers import hostile, range_of
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from source_authority import TestAuthority

from dsops.bundle import bundle_index, describe_blobs, encode_bundle, sha256_hex
from dsops.chunks import split
from dsops.clock import SystemClock
from dsops.manifest import Manifest, TensorSpec
from dsops.messages import Problem
from dsops.topics import Topics
from dsops_agent.config import Config, SiteCache, Trust
from dsops_agent.config import Transfer as TransferConfig
from dsops_agent.install.fetch import Pace, Transfer, Wanted
from dsops_agent.install.mailbox import ChunkCame, ChunkLost, Connected, Mailbox, Receiving
from dsops_agent.sources import shelf as shelf_module
from dsops_agent.sources.assembly import Sources, Surroundings
from dsops_agent.sources.mqtt import MqttChunks
from dsops_agent.sources.regular import read_part
from dsops_agent.threads import Threads
from dsops_agent.transport.mqtt import MqttSession, Settings
from dsops_controller.demo.ports import free_ports

pytestmark = pytest.mark.integration

TOPICS = Topics()
MOSQUITTO = os.environ.get("DSOPS_MOSQUITTO") or shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def eventually(condition: Callable[[], object]) -> None:
    ends_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends_s, "waited in vain"
        time.sleep(0.02)


class Mosquitto:
    """A broker as one may run on a site's gateway, without TLS at first; a new one has lost everything."""

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        folder.mkdir()
        self._conf = folder / "conf"
        self._conf.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self._conf)], stderr=subprocess.DEVNULL)

        def answers() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", self.port)) == 0

        eventually(answers)

    def secure(self, authority: TestAuthority) -> None:
        """Start anew with TLS."""
        self.stop()
        with self._conf.open("a") as conf:
            conf.write(f"certfile {authority.certificate}\nkeyfile {authority.key}\nuser root\n")
        self.start()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        return client

    def put(self, messages: dict[str, bytes]) -> None:
        client = self.client()
        for digest, data in messages.items():
            client.publish(TOPICS.chunk(digest), data, qos=1, retain=True).wait_for_publish(20)
        client.disconnect()
        client.loop_stop()

    def retained(self) -> dict[str, bytes]:
        """Return the chunks that are retained now."""
        found: dict[str, bytes] = {}
        over = threading.Event()
        client = self.client()
        client.on_message = lambda _c, _u, m: over.set() if m.topic == "end" else found.update({m.topic: m.payload})
        client.subscribe([("dsops/v1/c/#", 1), ("end", 1)])
        client.publish("end", b"x", qos=1)
        assert over.wait(20)
        client.disconnect()
        client.loop_stop()
        return {topic.rpartition("/")[2]: data for topic, data in found.items() if data}


class Made:
    """A bundle and its chunks."""

    def __init__(self, release: int, size: int = 400_000) -> None:
        blobs = {"model.tflite": os.urandom(size), "profile.json": b"{}", "golden.bin": b"g"}
        spec = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
        manifest = Manifest(model="m", release=release, inputs=(spec,), outputs=(spec,), blobs=describe_blobs(blobs))
        self.data = encode_bundle(manifest, blobs)
        self.sha256 = sha256_hex(self.data)
        index = bundle_index(self.data)
        self.wanted = Wanted(self.sha256, len(self.data), index.digest)
        pieces = split(self.data, index.chunk_bytes, index.segments)
        self.chunks = {index.digest: index.encode(), **{sha256_hex(piece): piece for piece in pieces}}


class Device:
    """The session with the fleet's broker, every source, and the transfer of a real agent."""

    def __init__(self, name: str, folder: Path, broker: str, site: SiteCache, http: tuple[str, ...] = ()) -> None:
        self.folder = folder
        folder.mkdir()
        self.mailbox = Mailbox()
        self.stop_ = threading.Event()
        self.threads = Threads(self.stop_)
        self.events: list[tuple[str, str]] = []
        self.held: dict[str, Path | None] = {}
        clock = SystemClock()
        self.session = MqttSession(Settings(name, broker, lambda: None, reconnect_max_s=0.2), None, self, clock)
        config = Config(device=name, state=folder, trust=Trust(root=folder / "root"), site_cache=site)
        config = config.model_copy(update={"transfer": TransferConfig(http=http)})
        around = Surroundings(
            device=name,
            topics=TOPICS,
            deliver=lambda digest, data: self.mailbox.put(ChunkCame(digest, data)) and None,
            lost=self.lost,
            receiving=lambda: self.mailbox.put(Receiving()) and None,
            wasted=lambda _digest: None,
            events=self,
            clock=clock,
            trusted_now=lambda: None,
            holdings=lambda: dict(self.held),
        )
        self.sources = Sources(config, around, MqttChunks(self.session, TOPICS, name, self.lost))
        self.threads.start("mqtt", self.session.run)
        self.sources.start(self.threads, self.stop_)
        self.clock = clock

    def message(self, topic: str, payload: bytes) -> None:
        digest = TOPICS.parse_chunk(topic)
        if digest and payload:
            self.sources.chain.came("broker", digest, payload)

    def lost(self, digest: str, problem: Problem) -> None:
        self.mailbox.put(ChunkLost(digest, problem))

    def connected(self) -> None:
        self.mailbox.put(Connected())

    def disconnected(self) -> None:
        return

    def event(self, kind: str, model: str, release: int, digest: str, code: str, message: str) -> None:
        self.events.append((kind, code))

    def fetch(self, made: Made, timeout_s: float = 5.0) -> Path:
        """Fetch a bundle, and keep it as a slot would."""
        self.held[made.sha256] = None
        transfer = Transfer(self.folder / "staging", made.wanted, self.sources.chain, Pace(8, timeout_s))
        transfer.start(self.clock.monotonic_s())
        ends_s = time.monotonic() + 90
        while not transfer.done:
            assert time.monotonic() < ends_s, self.sources.chain.states()
            for message in self.mailbox.take(0.2):
                if isinstance(message, ChunkCame):
                    transfer.arrived(message.digest, message.data, self.clock.monotonic_s())
                elif isinstance(message, Receiving):
                    transfer.receiving(self.clock.monotonic_s())
            transfer.tick(self.clock.monotonic_s())
        transfer.close()
        assert transfer.path.read_bytes() == made.data
        assert transfer.wrong == 0
        self.held[made.sha256] = transfer.path
        return transfer.path

    def chunks(self) -> dict[str, int]:
        return {state.name: state.chunks for state in self.sources.chain.states()}

    def problem(self) -> str:
        (state,) = [state for state in self.sources.chain.states() if state.name == "site cache"]
        return state.problem.code if state.problem else ""

    def close(self) -> None:
        self.stop_.set()
        self.session.stop()
        self.sources.stop()
        self.threads.join(15, "mqtt", "site-mqtt", "site", "site-shelf", "folder")
        assert self.threads.failure is None


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[tuple[Mosquitto, Mosquitto]]:
    made = Mosquitto(tmp_path / "main"), Mosquitto(tmp_path / "site")
    yield made
    for broker in made:
        broker.stop()


@pytest.fixture
def make_device(tmp_path: Path, brokers: tuple[Mosquitto, Mosquitto]) -> Iterator[Callable[..., Device]]:
    devices: list[Device] = []

    def make(http: tuple[str, ...] = (), **settings: Any) -> Device:
        name = f"cam-{len(devices) + 1}"
        site = SiteCache(**{"broker": brokers[1].address, **settings})
        devices.append(Device(name, tmp_path / name, brokers[0].address, site, http))
        device = devices[-1]
        eventually(lambda: device.session.is_connected)
        return device

    yield make
    for device in devices:
        device.close()


def is_up(device: Device) -> bool:
    return device.sources.site is not None and device.sources.site.session.is_connected


def test_a_neighbour_gets_everything_from_the_site_also_when_the_fleets_broker_is_gone(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device]
) -> None:
    main, site = brokers
    made = Made(1)
    main.put(made.chunks)
    first = make_device(serve=True)
    eventually(lambda: is_up(first))
    first.fetch(made)
    assert first.chunks()["broker"] == len(made.chunks)
    eventually(lambda: site.retained() == made.chunks)
    second = make_device()
    eventually(lambda: is_up(second))
    second.fetch(made)
    assert second.chunks() == {"site cache": len(made.chunks), "broker": 0}
    third = make_device()
    eventually(lambda: is_up(third))
    main.stop()
    third.fetch(made)
    assert third.chunks() == {"site cache": len(made.chunks), "broker": 0}


@pytest.mark.slow
def test_what_a_site_lost_is_left_again_and_what_is_nobodys_is_taken_away(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device]
) -> None:
    main, site = brokers
    old, new = Made(1), Made(2)
    main.put(old.chunks | new.chunks)
    first = make_device(serve=True)
    eventually(lambda: is_up(first))
    first.fetch(old)
    eventually(lambda: site.retained() == old.chunks)
    site.stop()
    site.start()
    eventually(lambda: site.retained() == old.chunks)
    first.fetch(new)
    eventually(lambda: site.retained() == old.chunks | new.chunks)
    first.close()
    path = first.folder / f"staging/{new.sha256}.part"
    again = make_device(serve=True)
    again.held[new.sha256] = path
    for index in (first.folder / "site").glob("*.index"):  # the state folder of the device that was started again
        (again.folder / "site").mkdir(exist_ok=True)
        shutil.copy(index, again.folder / "site" / index.name)
    eventually(lambda: site.retained() == new.chunks)


@pytest.mark.slow
def test_a_site_gets_no_more_than_it_may_hold(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    main, site = brokers
    reads, rounds = [], []

    def read(path: Path, offset: int, length: int) -> bytes:
        reads.append(offset)
        return read_part(path, offset, length)

    monkeypatch.setattr(shelf_module, "read_part", read)
    monkeypatch.setattr(shelf_module, "_TIDY_S", 0.2)
    made = Made(1, 2_000_000)
    main.put(made.chunks)
    first = make_device(serve=True, max_bytes=1 << 20)
    eventually(lambda: is_up(first))
    first.fetch(made)
    shelf = first.sources.site.shelf if first.sources.site else None
    assert shelf is not None
    eventually(lambda: shelf.left_bytes > (1 << 20) - 64 * 1024 and first.sources.site.session.waiting == 0)  # type: ignore[union-attr]
    assert sum(map(len, site.retained().values())) <= 1 << 20
    holdings = shelf._holdings

    def count() -> dict[str, Path | None]:
        rounds.append(len(reads))
        return dict(holdings())

    shelf._holdings = count
    eventually(lambda: len(rounds) > 6)
    assert rounds[-1] - rounds[1] <= 1, "what has no room is not read again in each round"
    second = make_device()
    eventually(lambda: is_up(second))
    second.fetch(made)
    assert second.chunks()["site cache"] > 0
    assert sum(second.chunks().values()) == len(made.chunks)
    path, first.held = first.held[made.sha256], {}
    index = next(iter(shelf._documents.values()))  # came as a document, and is kept as those are
    eventually(lambda: shelf.left_bytes <= len(index))
    first.held = {made.sha256: path}
    eventually(lambda: shelf.left_bytes > (1 << 20) - 64 * 1024)


def test_a_site_that_lies_costs_time_is_set_aside_and_never_counts_as_the_transfers_fault(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device]
) -> None:
    main, site = brokers
    made = Made(1)
    main.put(made.chunks)
    site.put({digest: b"forged" + data[6:] for digest, data in made.chunks.items()})
    device = make_device()
    eventually(lambda: is_up(device))
    device.fetch(made)
    assert device.chunks() == {"site cache": 0, "broker": len(made.chunks)}
    assert device.problem() == "source.lies"
    assert ("source_failed", "source.lies") in device.events
    (state,) = [state for state in device.sources.chain.states() if state.name == "site cache"]
    assert state.aside_s > 0


def test_a_site_that_has_nothing_is_passed_over(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device]
) -> None:
    made = Made(1)
    brokers[0].put(made.chunks)
    device = make_device(wait_s=0.2)
    eventually(lambda: is_up(device))
    device.fetch(made)
    assert device.chunks()["site cache"] == 0
    assert device.problem() == "source.not_found"
    assert device.events == []


def test_a_site_that_never_answers_is_passed_over(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device]
) -> None:
    made = Made(1)
    brokers[0].put(made.chunks)
    fake = FakeBroker(lambda sock: time.sleep(60))
    device = make_device(broker=fake.address)
    device.fetch(made)
    assert device.chunks() == {"site cache": 0, "broker": len(made.chunks)}
    assert device.problem() == "source.unreachable"
    fake.close()


def test_a_message_without_an_end_is_not_even_begun(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device]
) -> None:
    sent = [0]

    def flood(sock: socket.socket) -> None:
        accept(sock)
        sock.sendall(struct.pack("B", 0x30) + b"\xff\xff\xff\x7f")  # PUBLISH of 268,435,455 bytes
        while True:
            sent[0] += sock.send(b"x" * 65536)

    made = Made(1)
    brokers[0].put(made.chunks)
    fake = FakeBroker(flood)
    device = make_device(broker=fake.address)
    eventually(lambda: fake.connections >= 2)  # it was ended, and is tried again
    assert sent[0] < fake.connections * (16 << 20)  # what fits into the sockets' buffers
    device.fetch(made)
    assert device.chunks()["broker"] == len(made.chunks)
    fake.close()


def test_a_site_with_tls_serves_whoever_knows_its_authority_and_nobody_talks_to_a_strangers(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device], tmp_path: Path
) -> None:
    main, site = brokers
    authority, other = TestAuthority(tmp_path / "authority"), TestAuthority(tmp_path / "other")
    made = Made(1)
    main.put(made.chunks)
    site.secure(authority)
    first = make_device(serve=True, ca=authority.ca)
    eventually(lambda: is_up(first))
    first.fetch(made)
    shelf = first.sources.site.shelf if first.sources.site else None
    assert shelf is not None
    eventually(lambda: len(shelf._left) == len(made.chunks) and not shelf._broker.waiting)
    second = make_device(ca=authority.ca)
    eventually(lambda: is_up(second))
    second.fetch(made)
    assert second.chunks() == {"site cache": len(made.chunks), "broker": 0}
    stranger = make_device(ca=other.ca)
    eventually(lambda: stranger.sources.problem)
    stranger.fetch(made)
    assert stranger.chunks() == {"site cache": 0, "broker": len(made.chunks)}
    assert ("source_failed", "source.unreachable") in stranger.events
    assert "certificate" in (stranger.sources.problem or "")
    assert not is_up(stranger)


@pytest.mark.slow
def test_a_web_server_that_is_slow_and_steady_is_neither_set_aside_nor_asked_twice(
    brokers: tuple[Mosquitto, Mosquitto], make_device: Callable[..., Device]
) -> None:
    """A chunk takes three times as long as a chunk's timer."""
    made = Made(1, 100_000)
    brokers[0].put(made.chunks)
    files = {made.sha256: made.data, **made.chunks}

    def answer(sock: socket.socket, head: str) -> None:
        data = files[head.split(" ")[1].rpartition("/")[2]]
        if "Range:" in head:
            first, last = range_of(head)
            said = f"206 Partial Content\r\nContent-Range: bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
        else:
            said = "200 OK"
        sock.sendall(f"HTTP/1.1 {said}\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        for start in range(0, len(data), 2000):
            sock.sendall(data[start : start + 2000])
            time.sleep(0.1)

    with hostile(answer) as server:
        device = make_device(http=(server.url,), wait_s=0.05)
        eventually(lambda: is_up(device))
        device.fetch(made, timeout_s=0.5)
        assert device.chunks() == {"site cache": 0, server.url: len(made.chunks), "broker": 0}
        device.close()
