"""A simulated device around the real installer: everything it needs is in memory, but journal, slots and staging."""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sim_bundles import CHUNK_BYTES, MODEL, Made, make_bundle

from dsops import dsse
from dsops.bundle import Bundle, file_digest, sha256_hex
from dsops.chunks import index_of, split
from dsops.clock import ManualClock
from dsops.delta import Piece, encode_delta
from dsops.directive import DeltaOffer, DesiredSlot, Directive
from dsops.errors import Cancelled, DsopsError, RuntimeCrashed, UnreadableBundle, UntrustedBundle
from dsops.messages import ModelState
from dsops.sealing import ContentKey, read_blob, wrap
from dsops.states import Install
from dsops.trust import Director, Policy, SignedTarget
from dsops_agent.install.content_keys import ContentKeys
from dsops_agent.install.gate import Gate
from dsops_agent.install.installer import Installer
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import Chunk, DeviceFacts, InstallConfig, Memory, ProveLimits, Support
from dsops_agent.install.slots import Slots, damage
from dsops_agent.runtime.figures import Figures
from dsops_agent.trust.trusted_time import ClockState


class SimulatedCrash(BaseException):
    """The control process was killed. No handler may catch it."""


@dataclass
class Fuse:
    """Kills the control process at its ``at``-th step; 0 never does."""

    at: int = 0
    count: int = 0

    def __call__(self, _moment: str = "") -> None:
        self.count += 1
        if self.count == self.at:
            raise SimulatedCrash


@dataclass
class SimTrust:
    """Believes every target in ``signed`` once the model's metadata, which are ``published``, were accepted."""

    director_: Director
    clock: ManualClock
    signed: dict[str, SignedTarget] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    clock_is: ClockState = ClockState.PLAUSIBLE
    published: set[str] = field(default_factory=set)

    def now(self) -> datetime:
        return self.clock.now()

    def knows(self, model: str) -> bool:
        return model in self.known

    def accept(self, model: str, head: bytes, documents: Mapping[str, bytes]) -> tuple[str, ...]:
        assert len(documents) < 100
        if head == b"bad":
            raise UntrustedBundle("the trust metadata is refused", why="its signature is bad")
        if model not in self.published:
            return (hashlib.sha256(model.encode()).hexdigest(),)
        self.known.add(model)
        return ()

    def clock_state(self) -> ClockState:
        return self.clock_is

    def keep_time(self, *, at_once: bool = False) -> None:
        self.kept_at_once = at_once

    def director(self) -> Director:
        if not self.known:
            raise UntrustedBundle("no director is known yet")
        return self.director_

    def policy(self, model: str) -> Policy:
        if model not in self.known:
            raise UntrustedBundle("no policy is known yet")
        return self.policies.get(model, Policy(model=model))

    def target(self, model: str, path: str) -> SignedTarget | None:
        return self.signed.get(path) if model in self.known else None


def digest_of(path: Path) -> str:
    """Return a file's digest; it fails as reading a bundle does."""
    try:
        return file_digest(path)[0]
    except OSError as error:
        raise UnreadableBundle(f"cannot read bundle {path.name}", why=str(error.strerror)) from error


@dataclass
class SimRuntime:
    """The inference process; it outlives the control process. Loads files for real, answers as ``faults`` tell."""

    fuse: Fuse
    serving: dict[str, str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    prove_faults: dict[str, DsopsError] = field(default_factory=dict)
    activate_faults: dict[str, DsopsError] = field(default_factory=dict)
    check_faults: dict[str, DsopsError] = field(default_factory=dict)
    alive: bool = True
    gaps: int = 0
    proofs_hang: bool = False
    limits: list[ProveLimits] = field(default_factory=list)
    operators: frozenset[str] = frozenset({"ADD/1", "CONV_2D/3"})
    support_faults: list[DsopsError] = field(default_factory=list)
    did: dict[str, Figures] = field(default_factory=dict)

    def supports(self, operators: tuple[str, ...]) -> Support:
        if self.support_faults:
            raise self.support_faults.pop()
        return Support("ai-edge-litert", "2.3.0", tuple(n for n in operators if n not in self.operators))

    def prove(self, path: Path, limits: ProveLimits, key: ContentKey | None, ended: threading.Event) -> None:
        self.fuse()
        self._open(path, key)
        self.limits.append(limits)
        digest = digest_of(path)
        self.log.append(f"prove {digest[:8]}")
        if self.proofs_hang:
            assert ended.wait(60)
            self.log.append(f"killed {digest[:8]}")
            raise Cancelled("the bundle is not wanted any more")
        self._raise(self.prove_faults, digest)
        self.fuse()

    def activate(self, model: str, path: Path, digest: str, release: int, key: ContentKey | None) -> None:
        self.fuse()
        self._require_alive()
        self._open(path, key)
        self.log.append(f"activate {digest[:8]}")
        self._raise(self.activate_faults, digest)
        Bundle.open(path).verify()
        assert digest_of(path) == digest
        assert release > 0
        self.serving[model] = digest
        self.fuse()

    def check(self, model: str) -> None:
        self.fuse()
        self._require_alive()
        self._raise(self.check_faults, self.serving[model])
        self.fuse()

    def deactivate(self, model: str) -> None:
        self.fuse()
        self._require_alive()
        self.log.append(f"deactivate {model}")
        self.serving.pop(model, None)

    def figures(self, model: str) -> Figures | None:
        self._require_alive()
        digest = self.serving.get(model)
        return self.did.get(digest, Figures(digest=digest)) if digest else None

    def is_serving(self, model: str, digest: str) -> bool:
        return self.alive and self.serving.get(model) == digest

    def _open(self, path: Path, key: ContentKey | None) -> None:
        bundle = Bundle.open(path)
        assert key is None or bundle.manifest.sealed is not None
        read_blob(bundle, bundle.manifest.payload, key)

    def _require_alive(self) -> None:
        if not self.alive:
            raise RuntimeCrashed("the inference process is gone")

    def _raise(self, faults: dict[str, DsopsError], digest: str) -> None:
        if digest in faults:
            raise faults[digest]


@dataclass
class SimBroker:
    """Answers requests for chunks: at once, when ``pump`` is called; those in ``lost`` never."""

    fuse: Fuse
    chunks: dict[str, bytes] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    is_away: bool = False
    asked: list[str] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)
    subscribed: dict[str, None] = field(default_factory=dict)

    def request(self, chunk: Chunk) -> None:
        self.fuse()
        self.asked.append(chunk.digest)
        self.subscribed[chunk.digest] = None

    def cancel(self, digest: str) -> None:
        self.subscribed.pop(digest, None)

    def has_near(self, chunk: Chunk) -> bool:
        return False

    def is_cut_off(self, chunk: Chunk) -> bool:
        return self.is_away

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        self.fuse()
        assert 1 <= len(chunks) <= 16
        self.needed += [chunk.digest for chunk in chunks]

    def pump(self, deliver: Callable[[str, bytes], None]) -> None:
        for digest in [*self.subscribed, *self.needed]:
            if digest in self.chunks and digest not in self.lost:
                deliver(digest, self.chunks[digest])
        self.needed.clear()


@dataclass
class SimRoom:
    """A host with so much room."""

    total_bytes: int = 10**9
    memory_bytes: int = total_bytes
    disk: int = 10**10

    def memory(self) -> Memory:
        return Memory(self.total_bytes, self.memory_bytes)

    def disk_bytes(self) -> int:
        return self.disk


@dataclass
class SimEvents:
    """Keeps events."""

    fuse: Fuse
    kept: list[tuple[str, str, int, str]] = field(default_factory=list)

    def event(self, kind: str, model: str, release: int, digest: str, code: str, message: str) -> None:
        self.fuse()
        assert message or kind.endswith("committed")
        assert len(digest) in (0, 64)
        self.kept.append((kind, model, release, code))

    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.kept]


@dataclass
class SimListener:
    """Counts changes."""

    changes: int = 0

    def changed(self) -> None:
        self.changes += 1


class World:
    """One device, its fleet's director and the network between them."""

    slots_class: type[Slots] = Slots

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
        self.fuse = Fuse()
        self.key = Ed25519PrivateKey.generate()
        director = Director(fleet="north", keys=(dsse.public_pem(self.key.public_key()),))
        self.trust = SimTrust(director, self.clock)
        self.runtime = SimRuntime(self.fuse)
        self.broker = SimBroker(self.fuse)
        self.events = SimEvents(self.fuse)
        self.listener = SimListener()
        self.room = SimRoom()
        self.free_bytes = 10**9
        self.config = InstallConfig(probation_s=60.0, free_bytes=1000, window=4)
        self.last_seq = 0
        self.envelopes: dict[tuple[int, str, tuple[Made, ...]], bytes] = {}
        self.content_key = X25519PrivateKey.generate()
        self.brings_keys = True
        self.gate = Gate()
        self.boot_id = "first start of the host"
        self.at_hand: set[str] = set()
        """Bundles that lie on the device as files."""
        self.beat: Callable[[float], None] = lambda _rest_s: None
        self.urgent = False
        self.changes_contract = False
        self.offers: dict[str, DeltaOffer] = {}
        self.installer = self.boot()

    def boot(self) -> Installer:
        """Start a new control process on what is on disk."""
        self.journal = Journal(self.folder / "journal.db", self.fuse)
        self.slots = self.slots_class(self.folder / "slots", self.journal, lambda _folder: self.free_bytes)
        self.installer = Installer(
            config=self.config,
            device=DeviceFacts("cam-1", "north", "x86_64", self.boot_id),
            journal=self.journal,
            slots=self.slots,
            trust=self.trust,
            chunks=self.broker,
            runtime=self.runtime,
            keys=ContentKeys("cam-1", self.journal, lambda: self.content_key),
            room=self.room,
            events=self.events,
            listener=self.listener,
            clock=self.clock,
            gate=self.gate,
            is_at_hand=self.at_hand.__contains__,
            beat=self.beat,
        )
        return self.installer

    def restart(self) -> None:
        """Kill the control process and start it again."""
        self.journal.close()
        self.broker.subscribed.clear()
        self.boot()
        self.installer.recover()

    def publish(self, *made: Made) -> None:
        """Sign bundles and offer their chunks."""
        for bundle in made:
            self.trust.signed[bundle.path] = bundle.signed()
            index = index_of(bundle.data, CHUNK_BYTES)
            self.broker.chunks[index.digest] = index.encode()
            self.broker.chunks[sha256_hex(bundle.needs)] = bundle.needs
            pieces = split(bundle.data, CHUNK_BYTES)
            self.broker.chunks |= {hashlib.sha256(piece).hexdigest(): piece for piece in pieces}

    def offer(self, old: Made, new: Made, lie: bytes | None = None) -> bytes:
        """Offer a delta from one bundle to another, position by position; or a file that only claims to be one."""
        both = min(len(old.data), len(new.data))
        pieces = [Piece(both, 0), *([Piece(len(new.data) - both, None)] if len(new.data) > both else [])]
        data = lie if lie is not None else b"".join(encode_delta(old.data, new.data, pieces, 3))
        index, sha256 = index_of(data, CHUNK_BYTES), hashlib.sha256(data).hexdigest()
        self.offers[new.sha256] = DeltaOffer(base=old.sha256, sha256=sha256, length_bytes=len(data), index=index.digest)
        self.broker.chunks[index.digest] = index.encode()
        self.broker.chunks |= {hashlib.sha256(piece).hexdigest(): piece for piece in split(data, CHUNK_BYTES)}
        return data

    def slot(self, bundle: Made, deployment: str) -> DesiredSlot:
        """Return what a directive says of a bundle; the key of a sealed one is wrapped for this device, anew."""
        marks = {"urgent": self.urgent, "changes_contract": self.changes_contract}
        slot = bundle.slot(deployment).model_copy(update={**marks, "delta": self.offers.get(bundle.sha256)})
        if bundle.key is None or not self.brings_keys:
            return slot
        own = self.content_key.public_key()
        return slot.model_copy(update={"content_key": wrap(bundle.key, own, bundle.sha256, "cam-1")})

    def envelope(self, seq: int, *made: Made, deployment: str = "", pardoned: tuple[str, ...] = ()) -> bytes:
        now = self.clock.now()
        directive = Directive(
            fleet="north",
            device="cam-1",
            seq=seq,
            issued=now,
            expires=now + timedelta(days=1),
            slots={bundle.model: self.slot(bundle, deployment or f"de-{seq}") for bundle in made},
            pardoned=pardoned,
        )
        return directive.sign(self.key)

    def direct(self, seq: int, *made: Made, deployment: str = "") -> None:
        """Deliver a directive; asked for again it is the very same, as the broker retains it."""
        key = (seq, deployment, made)
        if key not in self.envelopes:
            self.envelopes[key] = self.envelope(seq, *made, deployment=deployment)
        self.installer.on_directive(self.envelopes[key])

    def pack(self, model: str = MODEL) -> None:
        self.trust.published.add(model)
        self.installer.on_trust_head(b"good")

    def step(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)
        self.installer.work(0)
        self.broker.pump(self.installer.chunk_arrived)

    def steps(self, count: int, seconds: float = 0.0) -> None:
        for _ in range(count):
            self.step(seconds)

    def settle(self, seconds: float = 2.0, limit: int = 200) -> ModelState:
        """Let time pass until every install has ended and the network is silent."""
        for _ in range(limit):
            self.step(seconds)
            rows = self.journal.installs().values()
            has_begun = set(self.journal.desired()) <= set(self.journal.installs())
            if rows and all(row.state.is_final for row in rows) and has_begun:
                self.step(0)
                return self.state()
        raise AssertionError(f"not settled: {self.installer.observed()}")

    def install(self, seq: int, made: Made) -> ModelState:
        self.publish(made)
        self.direct(seq, made)
        self.pack()
        return self.settle()

    def state(self, model: str = MODEL) -> ModelState:
        return self.installer.observed()[model]

    def check_invariants(self) -> None:
        """Assert what must hold at every moment after a recovery (the design's invariants)."""
        seq = self.journal.seq()
        assert seq >= self.last_seq, "the directive's seq fell"
        self.last_seq = seq
        for model in self.slots.models():
            active = self.slots.active(model)
            assert active is None or not damage(active, model), "the active slot is damaged"
            self.check_files(model)
            bundles = list((self.folder / "slots" / model).glob("[ab]/bundle"))
            assert len(bundles) <= 2, "more than two slots"
        parts = list((self.folder / "staging").glob("*.part"))
        deltas = {offer.sha256 for offer in self.offers.values()}
        assert len([part for part in parts if part.stem not in deltas]) <= 1, "more than one transfer is on disk"
        assert len(parts) <= 2, "more than one delta is on disk"
        assert {row.state for row in self.journal.installs().values()} <= set(Install)

    def check_files(self, model: str) -> None:
        """Assert that the files which programs find are those of the active bundle, all of them and no others."""
        active, folder = self.slots.active(model), self.slots.files(model)
        found = {path.name: path.read_bytes() for path in folder.iterdir()} if folder else {}
        if active:
            bundle = Bundle.open(active.path)
            assert found == {one.blob: bundle.read(one.blob) for one in bundle.manifest.files}, "the files differ"
        else:
            assert not found, "files without a model"

    def check_end(self) -> None:
        """Assert what must hold once everything has ended."""
        self.check_invariants()
        assert not list((self.folder / "staging").iterdir()), "staging was not tidied"
        assert not self.broker.subscribed, "chunks are still subscribed"
        for model in self.slots.models():
            active = self.slots.active(model)
            assert self.runtime.serving.get(model) == (active.digest if active else None), "runtime and disk differ"
        assert not self.journal.untold(), "an event was not told"
        assert not list(self.slots.folder.glob("*/*/.*")), "the slots were not tidied"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.installer.recover()
    yield made
    made.journal.close()


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[[], World]]:
    """Make any number of fresh worlds."""
    worlds: list[World] = []

    def make() -> World:
        folder = tmp_path / str(len(worlds))
        folder.mkdir()
        worlds.append(World(folder))
        worlds[-1].installer.recover()
        return worlds[-1]

    yield make
    for one in worlds:
        one.journal.close()


@pytest.fixture
def bundle() -> Callable[..., Made]:
    return make_bundle


@pytest.fixture
def crash() -> type[BaseException]:
    return SimulatedCrash


@pytest.fixture
def no_surprise(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail when the worker met an error that nobody expected."""
    yield
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR and r.name.startswith("dsops_agent")]
