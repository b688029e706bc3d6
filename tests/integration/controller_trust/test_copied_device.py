"""A state folder is copied, and both report under one identity: the controller finds it out, whoever speaks first."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert

from dsops import dsse
from dsops.clock import ManualClock
from dsops.errors import ForkedReport, Refusal, ReplayedReport
from dsops.messages import ModelState, Problem
from dsops.states import Device, Install
from dsops_agent.install.journal import Journal
from dsops_agent.reporter import Reporter, Signer
from dsops_controller.audit import Audit
from dsops_controller.db.database import Database
from dsops_controller.db.tables import device as devices
from dsops_controller.fleet.registry import Registry

pytestmark = pytest.mark.integration

KEY = ec.generate_private_key(ec.SECP256R1())


class Speaker:
    """A real reporter over a real journal in a folder; what it publishes is kept. Implements source and broker."""

    retains = True
    is_connected = True

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.journal = Journal(folder / "journal.db")
        self.sent: list[bytes] = []
        signer = Signer("cam-1", "state", lambda: KEY, self.journal.next_report)
        self.reporter = Reporter(signer, lambda: self, self, lambda: True, clock)

    def observed(self) -> Mapping[str, ModelState]:
        return {"digits": ModelState(install=Install.COMMITTED, active="1" * 64, active_release=1)}

    def seq(self) -> int:
        return self.journal.seq()

    def refused(self) -> Problem | None:
        return None

    def clock_suspect(self) -> bool:
        return False

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert (topic, retain) == ("state", True)
        self.sent.append(payload)

    def subscribe(self, topic: str, qos: int) -> None:
        raise AssertionError(topic, qos)

    def unsubscribe(self, topic: str) -> None:
        raise AssertionError(topic)

    def report(self) -> bytes:
        self.reporter.report()
        return self.sent[-1]


@pytest.fixture
def registry(db: Database, clock: ManualClock) -> Registry:
    with db.write() as connection:
        pem = dsse.public_pem(KEY.public_key())
        connection.execute(insert(devices).values(id="cam-1", state=Device.ACCEPTED, created_ms=0, public_key=pem))
    return Registry(db, clock)


@pytest.fixture
def speak(tmp_path: Path, clock: ManualClock) -> Iterator[Callable[[str], Speaker]]:
    """Start a reporter on the state folder of a name."""
    speakers: list[Speaker] = []

    def start(name: str) -> Speaker:
        (tmp_path / name).mkdir(exist_ok=True)
        speakers.append(Speaker(tmp_path / name, clock))
        return speakers[-1]

    yield start
    for speaker in speakers:
        speaker.journal.close()


Pair = tuple[Speaker, Speaker]


@pytest.fixture
def pair(speak: Callable[[str], Speaker], registry: Registry, tmp_path: Path, clock: ManualClock) -> Pair:
    """A device that reported three times, and a copy of its state, both running."""
    first = speak("device")
    for _ in range(3):
        assert registry.observed("cam-1", first.report()) is not None
    first.journal.close()
    shutil.copytree(tmp_path / "device", tmp_path / "copy")
    clock.advance(1)
    return speak("device"), speak("copy")


def codes(db: Database, clock: ManualClock) -> set[str]:
    return {entry.detail.split(":")[0] for entry in Audit(db, clock).list(subject="cam-1")}


def test_a_restarted_device_continues_its_chain(speak: Callable[[str], Speaker], registry: Registry) -> None:
    for _ in range(3):
        speaker = speak("device")
        for _ in range(2):
            assert registry.observed("cam-1", speaker.report()) is not None
        speaker.journal.close()
    last = registry.last_observed("cam-1")
    assert last is not None
    assert last.counter == 6


def test_a_copy_that_reports_after_the_device_is_a_fork(
    pair: Pair, registry: Registry, db: Database, clock: ManualClock
) -> None:
    device, copy = pair
    assert registry.observed("cam-1", device.report()) is not None
    clock.advance(1)
    with pytest.raises(ForkedReport):
        registry.observed("cam-1", copy.report())
    with pytest.raises(ForkedReport):
        registry.observed("cam-1", copy.report())
    assert codes(db, clock) == {"trust.report_forked"}
    last = registry.last_observed("cam-1")
    assert last is not None
    assert last.counter == 4


def test_a_device_whose_copy_spoke_first_gives_it_away(pair: Pair, registry: Registry) -> None:
    device, copy = pair
    for _ in range(3):
        assert registry.observed("cam-1", copy.report()) is not None
        clock_step(device)
    with pytest.raises(ReplayedReport):
        registry.observed("cam-1", device.report())
    device.report()
    for _ in range(2):
        with pytest.raises(ForkedReport):
            registry.observed("cam-1", device.report())


def clock_step(speaker: Speaker) -> None:
    """Let a second pass, so that what the two say differs as it does in life."""
    clock = speaker.reporter.clock
    assert isinstance(clock, ManualClock)
    clock.advance(1)


def test_a_copy_is_found_out_in_any_order_with_reports_lost(pair: Pair, registry: Registry) -> None:
    device, copy = pair
    refused: list[type[Refusal]] = []
    for number in range(12):
        speaker = device if number % 3 else copy
        clock_step(speaker)
        data = speaker.report()
        if number % 4 == 1:
            continue
        try:
            registry.observed("cam-1", data)
        except Refusal as error:
            refused.append(type(error))
    assert refused
    assert set(refused) <= {ForkedReport, ReplayedReport}


def test_a_power_cut_before_publishing_breaks_nothing(speak: Callable[[str], Speaker], registry: Registry) -> None:
    speaker = speak("device")
    assert registry.observed("cam-1", speaker.report()) is not None
    speaker.report()  # counted, and lost with the power
    speaker.journal.close()
    assert registry.observed("cam-1", speak("device").report()) is not None
