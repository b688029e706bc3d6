"""The installer as a running thread over the real trust store: signed directive in, committed bundle out."""

import hashlib
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from dsops import dsse
from dsops.bundle import describe_blobs, encode_bundle
from dsops.chunks import index_of, split
from dsops.clock import SystemClock
from dsops.directive import DesiredSlot, Directive
from dsops.manifest import Manifest, TensorSpec
from dsops.messages import ModelState
from dsops.sealing import ContentKey
from dsops.states import Install
from dsops.trust import Director
from dsops_agent.install.content_keys import ContentKeys
from dsops_agent.install.installer import Installer
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import DeviceFacts, InstallConfig, ProveLimits
from dsops_agent.install.slots import Slots

DEADLINE_S = 30.0


def make_bundle(release: int) -> bytes:
    blobs = {"model.tflite": bytes(range(256)) * 20, "profile.json": b"{}", "golden.bin": b"g"}
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
    manifest = Manifest(model="digits", release=release, inputs=(spec,), outputs=(spec,), blobs=describe_blobs(blobs))
    return encode_bundle(manifest, blobs)


class Surroundings:
    """The installer's other ports: chunks come from memory on another thread, the runtime serves what it is told."""

    def __init__(self) -> None:
        self.chunks: dict[str, bytes] = {}
        self.packs: dict[str, bytes] = {}
        self.serving: dict[str, str] = {}
        self.events: list[str] = []
        self.news = threading.Condition()
        self.installer: Installer

    def request(self, digest: str) -> None:
        threading.Timer(0, self.installer.chunk_arrived, (digest, self.chunks[digest])).start()

    def cancel(self, digest: str) -> None:
        assert len(digest) == 64

    def need(self, digests: tuple[str, ...]) -> None:
        for digest in digests:
            self.request(digest)

    def follow(self, model: str) -> None:
        if model in self.packs:
            self.installer.on_trust_pack(model, self.packs[model])

    def prove(self, path: Path, limits: ProveLimits, key: ContentKey | None) -> None:
        assert path.is_file()
        assert limits.timeout_s
        assert key is None

    def activate(self, model: str, path: Path, digest: str, release: int, key: ContentKey | None) -> None:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        assert release
        assert key is None
        self.serving[model] = digest

    def check(self, model: str) -> None:
        assert model in self.serving

    def deactivate(self, model: str) -> None:
        self.serving.pop(model, None)

    def is_serving(self, model: str, digest: str) -> bool:
        return self.serving.get(model) == digest

    def event(self, kind: str, model: str, release: int, digest: str, code: str, message: str) -> None:
        self.events.append(f"{kind} {model} {release} {digest} {code} {message}")

    def changed(self) -> None:
        with self.news:
            self.news.notify_all()


class Device:
    """An installer that runs, and the controller's side of its conversation."""

    def __init__(self, bench: Any, folder: Path) -> None:
        self.bench = bench
        self.around = Surroundings()
        self.key = Ed25519PrivateKey.generate()
        director = Director(fleet="north", keys=(dsse.public_pem(self.key.public_key()),))
        bench.repository.set_small("fleet", "fleet/director.json", director.model_dump_json())
        bench.repository.publish()
        self.journal = Journal(folder / "journal.db")
        self.installer = Installer(
            config=InstallConfig(probation_s=0.05, free_bytes=0, trust_wait_s=0.2),
            device=DeviceFacts("cam-1", "north", "x86_64"),
            journal=self.journal,
            slots=Slots(folder / "slots", self.journal),
            trust=bench.store,
            chunks=self.around,
            trust_source=self.around,
            runtime=self.around,
            keys=ContentKeys("cam-1", self.journal, X25519PrivateKey.generate),
            events=self.around,
            listener=self.around,
            clock=SystemClock(),
        )
        self.around.installer = self.installer
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.installer.recover()
        self.installer.run(self.stop)

    def close(self) -> None:
        self.stop.set()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        self.journal.close()

    def sign(self, data: bytes, release: int, custom: dict[str, object]) -> None:
        index = index_of(data, 512)
        facts = {"model": "digits", "release": release, "variant": "int8", "index": index.digest}
        self.bench.repository.set_target("model-digits", f"digits/{release}.int8.bundle", data, {**facts, **custom})
        self.bench.repository.publish()
        self.around.packs["digits"] = self.bench.repository.pack().encode()
        self.around.chunks |= {index.digest: index.encode()}
        self.around.chunks |= {hashlib.sha256(piece).hexdigest(): piece for piece in split(data, 512)}

    def direct(self, seq: int, data: bytes, release: int) -> None:
        slot = DesiredSlot(
            path=f"digits/{release}.int8.bundle",
            sha256=hashlib.sha256(data).hexdigest(),
            length_bytes=len(data),
            release=release,
            deployment=f"de-{seq}",
        )
        now = self.bench.clock.now()
        directive = Directive(
            fleet="north",
            device="cam-1",
            seq=seq,
            issued=now,
            expires=now + timedelta(days=1),
            slots={"digits": slot},
        )
        self.installer.on_directive(directive.sign(self.key))

    def ended(self, deployment: str) -> ModelState:
        with self.around.news:
            assert self.around.news.wait_for(lambda: self._has_ended(deployment), DEADLINE_S)
        return self.installer.observed()["digits"]

    def _has_ended(self, deployment: str) -> bool:
        state = self.installer.observed().get("digits")
        return state is not None and state.deployment == deployment and state.install.is_final


@pytest.fixture
def device(bench: Any, tmp_path: Path) -> Iterator[Device]:
    folder = tmp_path / "device"
    folder.mkdir()
    made = Device(bench, folder)
    yield made
    made.close()


def test_signed_directive_becomes_a_committed_bundle(device: Device) -> None:
    one = make_bundle(1)
    device.sign(one, 1, {})
    device.direct(1, one, 1)
    state = device.ended("de-1")
    assert (state.install, state.active_release) == (Install.COMMITTED, 1)
    assert device.around.serving == {"digits": hashlib.sha256(one).hexdigest()}
    two = make_bundle(2)
    device.sign(two, 2, {})
    device.direct(2, two, 2)
    state = device.ended("de-2")
    assert (state.install, state.active_release, state.previous_release) == (Install.COMMITTED, 2, 1)


def test_bundle_that_nobody_signed_is_rejected(device: Device) -> None:
    device.sign(make_bundle(1), 1, {})
    device.direct(1, make_bundle(3), 3)
    state = device.ended("de-1")
    assert state.install is Install.REJECTED
    assert state.problem is not None
    assert "is not signed" in state.problem.message
    assert device.around.serving == {}


def test_bundle_for_other_hardware_is_rejected(device: Device) -> None:
    one = make_bundle(1)
    device.sign(one, 1, {"hardware": ["armv7l"]})
    device.direct(1, one, 1)
    state = device.ended("de-1")
    assert state.problem is not None
    assert state.problem.code == "bundle.incompatible"
