"""What a directive costs a device: the time to judge one, and the bytes that come over the wire for it.

Real metadata of a fleet after its ceremony, the agent's own intake, trust store and journal on disk, every write
forced to it. A warm device has taken the metadata in before. The peer of the times is python-tuf's own client with as
many look-ups over the same repository, which forces nothing to the disk and judges no directive. The peer of the bytes
is everything that a device needs about a model in one retained message. Bytes are counted where a session of the agent
hands them over, behind a real mosquitto with mutual TLS, after a reconnection.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

from measure.broker import PREFIX, Keys, broker
from measure.reconnection import publish, reconnected
from measure.report import Limit, Report, Row, run

from dsops import dsse
from dsops.bundle import file_digest
from dsops.clock import ManualClock, SystemClock
from dsops.directive import PAYLOAD_TYPE, DesiredSlot, Directive, target_path
from dsops.ids import new_deployment_id
from dsops.topics import Topics
from dsops.trust import DIRECTOR_PATH, approve, policy_path
from dsops_agent.install.documents import Documents
from dsops_agent.install.fetch import Pace
from dsops_agent.install.intake import Intake
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import Chunk, DeviceFacts
from dsops_agent.trust.store import TrustStore
from dsops_controller.trust import client
from dsops_controller.trust.keys import OnlineKeys
from dsops_controller.trust.state import TrustState, retimed
from dsops_controller.trust.testing import FoundedFleet, bundle_maker

ROUNDS = 60
COLD_ROUNDS = 15
MODELS = 20
MODEL, DEVICE, FLEET = "digits", "cam-1", "lab"
TUF, PACK = "python-tuf, no fsync, no directive", "all metadata in one message"
TIME_LIMIT = Limit("figure", "<=", 10.0)
BYTES_LIMIT = Limit("figure", "<=", 2500.0)
_TOPICS = Topics(PREFIX)


@dataclass
class Site:
    """A fleet, its director, and a signed bundle."""

    fleet: FoundedFleet
    slot: DesiredSlot
    state: TrustState
    seq: Iterator[int] = field(default_factory=partial(count, 1))

    @classmethod
    def create(cls, folder: Path, models: int) -> "Site":
        """Hold the ceremony, grant models, sign and publish a bundle of the first."""
        folder.mkdir()
        fleet = FoundedFleet.create(folder, ManualClock(SystemClock().now()), FLEET)
        for name in (MODEL, *(f"model-{number}" for number in range(1, models))):
            fleet.grant(name)
        path = bundle_maker(folder)()
        fleet.repository.publish_role(fleet.sign(path))
        sha256, length_bytes = file_digest(path)
        slot = DesiredSlot(
            path=target_path(MODEL, 1, "int8"),
            sha256=sha256,
            length_bytes=length_bytes,
            release=1,
            deployment=new_deployment_id(),
        )
        return cls(fleet, slot, fleet.repository.state())

    def directive(self) -> bytes:
        """Return the next directive."""
        now = self.fleet.clock.now()
        directive = Directive(
            fleet=FLEET,
            device=DEVICE,
            seq=next(self.seq),
            issued=now,
            expires=now + timedelta(days=1),
            slots={MODEL: self.slot},
        )
        named = self.fleet.repository.director().keyring()
        return directive.sign(*self._keys().directors(named))

    def renew(self) -> None:
        """Sign a new timestamp for what is published, as the controller does every day and a half."""
        self.fleet.clock.advance(1)
        self.state = retimed(self.state, self._keys(), self.fleet.clock.now())

    def _keys(self) -> OnlineKeys:
        return OnlineKeys.load(self.fleet.server / "keys")


class NoSource:
    """Nothing is ever asked for: every document is handed over."""

    def request(self, chunk: Chunk) -> None:
        """Refuse."""
        raise AssertionError(chunk)

    def cancel(self, digest: str) -> None:
        """Refuse."""
        raise AssertionError(digest)

    def has_near(self, chunk: Chunk) -> bool:
        """Refuse."""
        raise AssertionError(chunk)

    def is_cut_off(self, chunk: Chunk) -> bool:
        """Refuse."""
        raise AssertionError(chunk)

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        """Refuse."""
        raise AssertionError(chunks)


class Device:
    """The agent's trust store, journal and intake."""

    def __init__(self, folder: Path, site: Site) -> None:
        folder.mkdir()
        self._site = site
        self._facts = DeviceFacts(DEVICE, FLEET, "x86_64")
        self._journal = Journal(folder / "journal.db")
        self._folder = folder
        self._open()

    def _open(self) -> None:
        fleet = self._site.fleet
        self._store = TrustStore(self._folder / "trust", fleet.repository.role("root"), fleet.clock)
        documents = Documents(NoSource(), Pace(8, 5.0))
        self._intake = Intake(self._facts, self._journal, self._store, documents, wait_s=10.0)

    def take(self, head: bytes, documents: Mapping[str, bytes]) -> None:
        """Take everything in, as a device does at first contact."""
        assert self._store.accept(MODEL, head, documents) == ()

    def handle(self, head: bytes, envelope: bytes) -> None:
        """Refresh, judge a directive, make it durable, and decide on the bundle that it wants."""
        self._intake.offer(envelope)
        self._intake.head(head)
        for model in self._intake.due():
            self._intake.take_in(model, 0.0)
        judged = self._intake.judge(0.0)
        assert judged is not None
        assert judged.directive is not None, "an honest directive is believed"
        slot = judged.directive.slots[MODEL]
        target, policy = self._store.target(MODEL, slot.path), self._store.policy(MODEL)
        approve(MODEL, slot, target, policy, device=self._facts.device, hardware=self._facts.hardware)

    def restart(self) -> None:
        """Begin anew on what is on disk."""
        self._store.close()
        self._open()

    def close(self) -> None:
        """Give the folder back."""
        self._store.close()
        self._journal.close()


def timed(action: Callable[[], object]) -> float:
    """Return how many milliseconds an action takes."""
    began_s = time.perf_counter()
    action()
    return (time.perf_counter() - began_s) * 1000


def time_rows(folder: Path) -> list[Row]:
    """Measure handling directives, warm and cold, and the peer in turns."""
    site = Site.create(folder / "site", 1)
    figures: dict[str, list[float]] = {name: [] for name in ("same", "start", "new", "tuf", "dsse", "cold", "tuf cold")}
    with closing(Device(folder / "device", site)) as device:
        offer = site.fleet.repository.offer()
        device.take(offer.head, offer.documents)
        peer = folder / "peer"
        stock = partial(_stock_client, site)
        stock(peer)
        for _ in range(ROUNDS):
            figures["same"].append(timed(partial(device.handle, site.state.timestamp, site.directive())))
            device.restart()
            figures["start"].append(timed(partial(device.handle, site.state.timestamp, site.directive())))
            site.renew()
            envelope = site.directive()
            figures["new"].append(timed(partial(device.handle, site.state.timestamp, envelope)))
            figures["tuf"].append(stock(peer))
            figures["dsse"].append(_verify(site, envelope))
    for number in range(COLD_ROUNDS):
        figures["cold"].append(_cold(folder / f"cold-{number}", site))
        figures["tuf cold"].append(stock(folder / f"peer-{number}"))
    middle = {name: statistics.median(found) for name, found in figures.items()}
    return [
        Row("warm, nothing changed", "ms", middle["same"], middle["tuf"], TUF, TIME_LIMIT),
        Row("of that, the directive's signature", "ms", middle["dsse"]),
        Row("warm, nothing changed but the process", "ms", middle["start"], middle["tuf"], TUF),
        Row("warm, a new timestamp", "ms", middle["new"], middle["tuf"], TUF),
        Row("cold, every document at hand", "ms", middle["cold"], middle["tuf cold"], TUF),
    ]


def _cold(folder: Path, site: Site) -> float:
    offer, envelope = site.fleet.repository.offer(), site.directive()
    with closing(Device(folder, site)) as device:

        def first_contact() -> None:
            device.take(offer.head, offer.documents)
            device.handle(offer.head, envelope)

        return timed(first_contact)


def _stock_client(site: Site, folder: Path) -> float:
    files = site.state.files(site.state.roles)
    paths = [DIRECTOR_PATH, policy_path(MODEL), site.slot.path]
    now = site.fleet.clock.now()
    folder.mkdir(exist_ok=True)
    return timed(partial(client.accept, folder, files, site.state.roots[0], paths, now))


def _verify(site: Site, envelope: bytes) -> float:
    keys = site.fleet.repository.director().keyring()
    return timed(partial(dsse.verify, envelope, PAYLOAD_TYPE, keys))


def byte_rows(folder: Path, models: int) -> list[Row]:
    """Measure what comes down for a directive when nothing else changed, and at first contact."""
    site = Site.create(folder / f"site-{models}", models)
    offer, pack = site.fleet.repository.offer(), site.fleet.repository.pack(MODEL)
    pack_topic = f"{PREFIX}/t/{MODEL}"
    desired, head = _TOPICS.desired(DEVICE), _TOPICS.trust()
    needed = {_TOPICS.chunk(digest): data for digest, data in pack.documents().items()}
    keys = Keys.create(folder / f"keys-{models}")
    identity = keys.device(DEVICE)
    retained = {**needed, head: offer.head, desired: site.directive(), pack_topic: pack.encode()}
    with broker(folder / f"broker-{models}", keys) as running:
        publish(keys, running.port, retained)
        ours, wire = reconnected(identity, running.port, (desired, head))
        peer, peer_wire = reconnected(identity, running.port, (desired, pack_topic))
        first, _ = reconnected(identity, running.port, (desired, head, *needed))
    fleet = "1 model" if models == 1 else f"{models} models"
    return [
        Row(f"fleet of {fleet}: nothing changed, payload", "bytes", ours, peer, PACK, BYTES_LIMIT),
        Row(f"fleet of {fleet}: the same with TLS and MQTT", "bytes", wire, peer_wire, PACK),
        Row(f"fleet of {fleet}: first contact, payload", "bytes", first, peer, PACK),
    ]


def measure() -> Report:
    """Found fleets, and measure times and bytes."""
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        folder = Path(name)
        rows = [*time_rows(folder), *byte_rows(folder, 1), *byte_rows(folder, MODELS)]
    facts = {"directives": ROUNDS, "cold": COLD_ROUNDS}
    return Report("directive", "Directives with their trust metadata, medians", facts, tuple(rows))


if __name__ == "__main__":
    sys.exit(run(measure))
