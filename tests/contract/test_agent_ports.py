"""Ports of the control process: what fills them does what they promise, the real things and the simulators."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dsops.api.v1.telemetry_pb2 import ClockTrust, Moment, Served, TelemetryRecord
from dsops.clock import ManualClock
from dsops.errors import SourceLacks
from dsops.messages import Need, Problem, decode
from dsops.topics import Topics
from dsops_agent.host import Host, HostFigures, SystemHost, inventory
from dsops_agent.install.ports import Chunk, ChunkSource, EventSink, Room, RuntimeControl
from dsops_agent.moment import Moments
from dsops_agent.room import HostRoom
from dsops_agent.sources.mqtt import MqttChunks
from dsops_agent.supervisor import RuntimeSupervisor
from dsops_agent.telemetry.collect import AgentFigures, Collector, Rhythm, SpoolEvents
from dsops_agent.telemetry.spool import Spool
from dsops_agent.telemetry.worth import Kind
from dsops_agent.transport.mqtt import MqttSession
from dsops_agent.transport.ports import Broker


class SimulatedHost:
    """A host whose figures are given."""

    def __init__(self, figures: HostFigures) -> None:
        self._figures = figures

    def figures(self, runtime_rss_bytes: int) -> HostFigures:
        return self._figures


class SimulatedBroker:
    """Keeps what it is asked."""

    def __init__(self, *, retains: bool = True) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.retains = retains
        self.is_connected = True

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self.asked.append(("publish", topic, payload.decode()))

    def subscribe(self, topic: str, qos: int) -> None:
        self.asked.append(("subscribe", topic, str(qos)))

    def unsubscribe(self, topic: str) -> None:
        self.asked.append(("unsubscribe", topic))


FIGURES = HostFigures(12.5, 0.5, 1, 2, 3, 4, 5, 61.0)


@pytest.fixture(params=["real", "simulated"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return SystemHost(tmp_path) if request.param == "real" else SimulatedHost(FIGURES)


def test_a_host_gives_figures_that_can_be(host: Host) -> None:
    figures = host.figures(5)
    assert 0 <= figures.cpu_percent <= 100
    assert 0 < figures.memory_used_bytes < figures.memory_total_bytes
    assert figures.agent_rss_bytes > 0
    assert figures.runtime_rss_bytes == 5
    assert figures.disk_free_bytes > 0
    assert figures.temperature_c >= 0


def test_the_inventory_names_the_host_and_the_runtime() -> None:
    facts = inventory()
    assert facts.hardware == os.uname().machine
    assert facts.cpus >= 1
    assert facts.memory_bytes > 0
    assert facts.runtime.split()[0] in ("ai-edge-litert", "tflite-runtime")


def new_collector(spool: Spool, clock: ManualClock) -> Collector:
    served = [Served(model="digits", release=3, digest="a" * 64, state="serving")]
    agent = AgentFigures("1.2.3", lambda: 0, lambda: served)
    moments = Moments(clock, "00010203-0405-0607-0809-0a0b0c0d0e0f", lambda: ClockTrust.CLOCK_FREE)
    return Collector(SimulatedHost(FIGURES), spool, moments, rhythm=Rhythm(10.0, 30.0), agent=agent)


def read(spool: Spool, kind: Kind) -> list[TelemetryRecord]:
    batch = spool.batch(kind, 100_000, 100)
    return [TelemetryRecord.FromString(data) for data in batch.records] if batch else []


def test_a_device_says_that_it_lives_and_what_waits(tmp_path: Path) -> None:
    spool, clock = Spool(tmp_path / "spool", 1 << 20), ManualClock()
    collector = new_collector(spool, clock)
    for _ in range(6):
        collector.collect(clock.now(), 10.0)
        clock.advance(10.0)
    beats = [record for record in read(spool, "telemetry") if record.WhichOneof("kind") == "heartbeat"]
    assert [(beat.heartbeat.agent_version, beat.heartbeat.uptime_s) for beat in beats] == [("1.2.3", 0), ("1.2.3", 30)]
    assert [(one.model, one.release, one.state) for one in beats[0].heartbeat.served] == [("digits", 3, "serving")]
    assert {one.kind: one.records for one in beats[1].heartbeat.waiting} == {"events": 0, "telemetry": 4, "samples": 0}
    assert beats[1].moment == Moment(boot=bytes(range(16)), monotonic_us=30_000_000, clock=ClockTrust.CLOCK_FREE)
    spool.close()


def test_an_interval_of_the_host_is_stored_as_one_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1 << 20)
    collector = new_collector(spool, ManualClock())
    collector.collect(datetime(2026, 1, 1, tzinfo=UTC), 2.5)
    record = read(spool, "telemetry")[0].host
    assert (record.start_us, record.interval_ms) == (1_767_225_600_000_000, 2500)
    assert (record.cpu_percent, record.temperature_c, record.runtime_rss_bytes) == (12.5, 61.0, 5)
    spool.close()


def test_an_event_is_stored_and_a_long_text_is_cut(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1 << 20)
    sink: EventSink = SpoolEvents(spool, Moments(ManualClock()))
    sink.event("refused", "digits", 2, "a" * 64, "bundle.untrusted", "x" * 5000)
    event = read(spool, "events")[0].event
    assert (event.kind, event.model, event.release, event.code) == ("refused", "digits", 2, "bundle.untrusted")
    assert len(event.message) == 1000
    spool.close()


def test_chunks_are_asked_for_by_topic() -> None:
    broker = SimulatedBroker()
    chunks: ChunkSource = MqttChunks(broker, Topics(), "cam-1", lambda *_: None)
    chunks.request(Chunk("aa"))
    chunks.request(Chunk("aa"))
    chunks.cancel("aa")
    chunks.need((Chunk("b" * 64),))
    assert broker.asked[:3] == [("subscribe", "dsops/v1/c/aa", "0")] * 2 + [("unsubscribe", "dsops/v1/c/aa")]
    assert broker.asked[3] == ("unsubscribe", f"dsops/v1/c/{'b' * 64}")
    assert broker.asked[4][:2] == ("publish", "dsops/v1/d/cam-1/up/need")
    assert decode(Need, broker.asked[4][2].encode()).digests == ("b" * 64,)
    assert len(broker.asked) == 5


def test_without_a_connection_to_the_broker_nobody_can_be_asked() -> None:
    broker = SimulatedBroker()
    chunks: ChunkSource = MqttChunks(broker, Topics(), "cam-1", lambda *_: None)
    assert not chunks.is_cut_off(Chunk("aa"))
    broker.is_connected = False
    assert chunks.is_cut_off(Chunk("aa"))


def test_chunks_of_a_file_are_needed_by_their_numbers_and_not_of_the_broker_any_more() -> None:
    broker = SimulatedBroker()
    chunks: ChunkSource = MqttChunks(broker, Topics(), "cam-1", lambda *_: None)
    named = [Chunk(f"{number:064x}", "f" * 64, number * 32768, 32768, "a" * 64, number) for number in (3, 0, 1000)]
    chunks.need((*named, Chunk("b" * 64)))
    assert broker.asked[:4] == [("unsubscribe", f"dsops/v1/c/{chunk.digest}") for chunk in (*named, Chunk("b" * 64))]
    documents, numbered = (decode(Need, text.encode()) for _, _, text in broker.asked[4:])
    assert (documents.digests, documents.index) == (("b" * 64,), None)
    assert (numbered.digests, numbered.index, numbered.numbers) == ((), "a" * 64, (0, 3, 1000))


def test_a_broker_that_retains_nothing_is_not_waited_for() -> None:
    broker, lost = SimulatedBroker(retains=False), dict[str, Problem]()
    chunks: ChunkSource = MqttChunks(broker, Topics(), "cam-1", lost.__setitem__)
    chunks.request(Chunk("aa"))
    assert broker.asked == []
    assert lost["aa"].code == SourceLacks.code


def adapters(
    session: MqttSession, supervisor: RuntimeSupervisor, room: HostRoom
) -> tuple[Broker, RuntimeControl, Room]:
    """Checked by mypy: the real adapters fit their ports."""
    return session, supervisor, room
