"""A device with the real installer, journal, slots and trust store, and who speaks to it: controller, broker, thief.

Simulated are the courier (what is sent arrives when time passes), the inference process, and the clock.
"""

import hashlib
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dsops import dsse
from dsops.bundle import describe_blobs, encode_bundle
from dsops.chunks import index_of, split
from dsops.directive import DesiredSlot, Directive
from dsops.errors import DsopsError, RuntimeCrashed
from dsops.manifest import Manifest, TensorSpec
from dsops.messages import ModelState
from dsops.needs import Needs, needs_of
from dsops.sealing import ContentKey
from dsops.trust import Director, Policy
from dsops_agent.install.content_keys import ContentKeys
from dsops_agent.install.installer import Installer
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import Chunk, DeviceFacts, InstallConfig, Memory, ProveLimits, Support
from dsops_agent.install.slots import Slots
from dsops_agent.runtime.figures import Figures

CHUNK_BYTES = 1024
CONFIG = InstallConfig(probation_s=60.0, free_bytes=0, trust_wait_s=10.0)


class PowerCut(BaseException):
    """The device lost its power. No handler may catch it."""


@dataclass(frozen=True)
class Made:
    """A bundle's bytes."""

    release: int
    data: bytes
    needs: Needs

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def path(self) -> str:
        return f"digits/{self.release}.int8.bundle"

    def slot(self, **changes: object) -> DesiredSlot:
        said = {"path": self.path, "sha256": self.sha256, "length_bytes": len(self.data), "release": self.release}
        return DesiredSlot.model_validate(said | {"deployment": f"de-{self.release}"} | changes)


def make_bundle(release: int, payload: bytes = bytes(range(256)) * 20) -> Made:
    blobs = {"model.tflite": payload, "profile.json": b"{}", "golden.bin": b"g"}
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
    manifest = Manifest(model="digits", release=release, inputs=(spec,), outputs=(spec,), blobs=describe_blobs(blobs))
    data = encode_bundle(manifest, blobs)
    return Made(release, data, needs_of(manifest, len(data)))


@dataclass
class Surroundings:
    """The installer's other ports. Implements chunks, the inference process, the room, events and the listener."""

    chunks: dict[str, bytes] = field(default_factory=dict)
    asked: dict[str, None] = field(default_factory=dict)
    serving: dict[str, str] = field(default_factory=dict)
    faults: dict[str, DsopsError] = field(default_factory=dict)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    is_alive: bool = True

    def request(self, chunk: Chunk) -> None:
        self.asked[chunk.digest] = None

    def cancel(self, digest: str) -> None:
        self.asked.pop(digest, None)

    def has_near(self, chunk: Chunk) -> bool:
        return False

    def is_cut_off(self, chunk: Chunk) -> bool:
        return False

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        self.asked |= dict.fromkeys(chunk.digest for chunk in chunks)

    def supports(self, operators: tuple[str, ...]) -> Support:
        assert not operators
        return Support("ai-edge-litert", "2.3.0")

    def memory(self) -> Memory:
        return Memory(10**9, 10**9)

    def disk_bytes(self) -> int:
        return 10**10

    def prove(self, path: Path, limits: ProveLimits, key: ContentKey | None, ended: threading.Event) -> None:
        assert path.is_file()
        assert limits.timeout_s
        assert key is None

    def activate(self, model: str, path: Path, digest: str, release: int, key: ContentKey | None) -> None:
        assert key is None
        self._require_alive()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        assert release
        self.serving[model] = digest

    def check(self, model: str) -> None:
        self._require_alive()
        if self.serving[model] in self.faults:
            raise self.faults[self.serving[model]]

    def deactivate(self, model: str) -> None:
        self._require_alive()
        self.serving.pop(model, None)

    def figures(self, model: str) -> Figures | None:
        self._require_alive()
        digest = self.serving.get(model)
        return Figures(digest=digest) if digest else None

    def is_serving(self, model: str, digest: str) -> bool:
        return self.is_alive and self.serving.get(model) == digest

    def _require_alive(self) -> None:
        if not self.is_alive:
            raise RuntimeCrashed("the inference process is gone")

    def event(self, kind: str, model: str, release: int, digest: str, code: str, message: str) -> None:
        assert release >= 0
        assert len(digest) in (0, 64)
        self.events.append((kind, code, message))

    def changed(self) -> None:
        """Nothing follows from news here."""


class Stage:
    """One device of fleet ``north``, and the other ends of its conversation.

    Args:
        bench: The fleet's repository and the device's trust store.
        folder: The device's state.
        device: Its name.
    """

    def __init__(self, bench: Any, folder: Path, device: str = "cam-1") -> None:
        self.bench, self.folder, self.device = bench, folder, device
        self.key = Ed25519PrivateKey.generate()
        self.around = Surroundings()
        self.lost = False
        self.cut_at = ""
        self.appoint(self.key)
        self.boot()

    def boot(self) -> None:
        """Start the control process on what is on disk."""
        self.journal = Journal(self.folder / "journal.db", self._committing)
        self.slots = Slots(self.folder / "slots", self.journal)
        self.installer = Installer(
            config=CONFIG,
            device=DeviceFacts(self.device, "north", "x86_64"),
            journal=self.journal,
            slots=self.slots,
            trust=self.bench.store,
            chunks=self.around,
            runtime=self.around,
            room=self.around,
            keys=ContentKeys(self.device, self.journal, X25519PrivateKey.generate),
            events=self.around,
            listener=self.around,
            clock=self.bench.clock,
        )
        self.installer.recover()

    def _committing(self, moment: str) -> None:
        if moment == self.cut_at:
            raise PowerCut

    def restart(self) -> None:
        """End the control process as a power cut does, and start it again."""
        self.close()
        self.cut_at = ""
        self.around.asked.clear()
        self.bench.reopen()
        self.boot()

    def close(self) -> None:
        self.journal.close()

    # The owners of the fleet.

    def appoint(self, *keys: Ed25519PrivateKey, threshold: int = 1, fleet: str = "north") -> None:
        """Let the holder of role ``fleet`` sign whose directives count."""
        pems = tuple(dsse.public_pem(key.public_key()) for key in keys)
        director = Director(fleet=fleet, threshold=threshold, keys=pems)
        self.bench.repository.set_small("fleet", "fleet/director.json", director.model_dump_json())
        self.bench.repository.publish()

    def allow(self, policy: Policy) -> None:
        """Let the release managers sign a policy."""
        self.bench.repository.set_small("policy", "policy/digits.json", policy.model_dump_json())
        self.bench.repository.publish()

    def sign(self, made: Made, **custom: object) -> None:
        """Let the model's owners sign a bundle; the controller offers its chunks."""
        index = index_of(made.data, CHUNK_BYTES)
        facts = {"model": "digits", "release": made.release, "variant": "int8"}
        facts |= {"index": index.digest, "needs": made.needs.digest}
        self.bench.repository.set_target("model-digits", made.path, made.data, {**facts, **custom})
        self.bench.repository.publish()
        self.around.chunks |= {index.digest: index.encode(), made.needs.digest: made.needs.encode()}
        self.around.chunks |= {hashlib.sha256(piece).hexdigest(): piece for piece in split(made.data, CHUNK_BYTES)}

    # Whoever writes to the broker.

    def directive(self, seq: int, *slots: DesiredSlot, **changes: object) -> Directive:
        now = self.bench.clock.now()
        honest = Directive(
            fleet="north",
            device=self.device,
            seq=seq,
            issued=now,
            expires=now + timedelta(days=1),
            slots={"digits": slots[0]},
        )
        return Directive.model_validate(honest.model_dump() | changes)

    def metadata(self, repository: Any = None) -> None:
        """Offer a repository's newest metadata; those of the fleet's own if none is named."""
        offered = repository or self.bench.repository
        self.around.chunks |= offered.documents()
        self.installer.on_trust_head(offered.head)

    def send(self, data: bytes, seconds: float = 15.0) -> None:
        """Deliver the newest metadata and an envelope, and let time pass; a new device asks for metadata only then."""
        self.metadata()
        for _ in range(8):
            self._work()
        self.installer.on_directive(data)
        self.installer.work(0)
        self.metadata()
        self.pass_time(seconds)

    def order(self, seq: int, made: Made, **changes: object) -> None:
        """Let whoever holds the director's key ask for a bundle, and wait for what becomes of it."""
        self.send(self.directive(seq, made.slot(**changes)).sign(self.key), 120.0)

    def pass_time(self, seconds: float) -> None:
        """Let the control process work, in steps of a second and a few at once where nothing waits for time."""
        for _ in range(20):
            self._work()
        while seconds > 0:
            self.bench.clock.advance(min(5.0, seconds))
            seconds -= 5.0
            self._work()
            self._work()

    def _work(self) -> None:
        self.installer.work(0)
        for digest in [digest for digest in self.around.asked if digest in self.around.chunks and not self.lost]:
            self.installer.chunk_arrived(digest, self.around.chunks[digest])

    # What became of it.

    def state(self) -> ModelState:
        return self.installer.observed()["digits"]

    def refusals(self) -> list[str]:
        """Return the codes of the events that say something was refused."""
        return [code for kind, code, _ in self.around.events if kind == "refused"]

    def refused(self) -> str:
        """Return the code that the next report carries, or empty."""
        problem = self.installer.refused()
        return problem.code if problem else ""
