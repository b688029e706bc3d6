"""A small TUF repository in memory: offline root and targets, roles fleet, policy and model-digits, online keys."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from device_stage import Stage
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from dsops import dsse
from dsops.clock import ManualClock
from dsops.messages import TrustPack
from dsops.trust import Director, Policy
from dsops_agent.trust.store import TrustStore

START = datetime(2026, 5, 1, tzinfo=UTC)
PATHS = {"fleet": ["fleet/*"], "policy": ["policy/*"], "model-digits": ["digits/*"]}


@dataclass
class Repository:
    """Signs whatever it is told to; ``publish`` makes new snapshot and timestamp metadata."""

    root_keys: list[CryptoSigner] = field(default_factory=lambda: [CryptoSigner.generate_ed25519() for _ in range(3)])
    keys: dict[str, CryptoSigner] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    targets: dict[str, bytes] = field(default_factory=dict)
    roles: dict[str, Metadata[Targets]] = field(default_factory=dict)
    expires: datetime = START + timedelta(days=365)
    timestamp_expires: datetime = START + timedelta(days=3)
    version: int = 0

    def __post_init__(self) -> None:
        for name in ("snapshot", "timestamp", *PATHS):
            self.keys[name] = CryptoSigner.generate_ed25519()
        self.root = Root(version=1, expires=self.expires, consistent_snapshot=True)
        self.root.roles["root"].threshold = self.root.roles["targets"].threshold = 2
        for signer in self.root_keys:
            self.root.add_key(signer.public_key, "root")
            self.root.add_key(signer.public_key, "targets")
        for name in ("snapshot", "timestamp"):
            self.root.add_key(self.keys[name].public_key, name)
        self.publish_root()
        self._delegate()
        pem = dsse.public_pem(Ed25519PrivateKey.generate().public_key())
        self.set_small("fleet", "fleet/director.json", Director(fleet="north", keys=(pem,)).model_dump_json())
        self.set_small("policy", "policy/digits.json", Policy(model="digits").model_dump_json())
        self.set_bundle("digits/1.int8.bundle", b"release one", 1)
        self.publish()

    @property
    def first_root(self) -> bytes:
        return self.files["1.root.json"]

    def publish_root(self) -> None:
        self.files[f"{self.root.version}.root.json"] = _signed(self.root, self.root_keys[:2])

    def _delegate(self) -> None:
        delegations = Delegations(keys={}, roles={})
        for name, paths in PATHS.items():
            key = self.keys[name].public_key
            delegations.keys[key.keyid] = key
            delegations.roles[name] = DelegatedRole(name, [key.keyid], 1, terminating=True, paths=paths)
            self.roles[name] = Metadata(Targets(expires=self.expires))
        self.roles["targets"] = Metadata(Targets(expires=self.expires, delegations=delegations))
        self.sign_role("targets", *self.root_keys[:2])

    def sign_role(self, name: str, *signers: CryptoSigner) -> None:
        role = self.roles[name]
        role.signed.version += f"{role.signed.version}.{name}.json" in self.files
        data = _signed(role.signed, list(signers) or [self.keys[name]])
        self.files[f"{role.signed.version}.{name}.json"] = data

    def set_target(self, role: str, path: str, data: bytes, custom: dict[str, object] | None = None) -> None:
        entry = TargetFile.from_data(path, data, ["sha256"])
        if custom:
            entry.unrecognized_fields["custom"] = custom
        self.roles[role].signed.targets[path] = entry
        self.sign_role(role, *(self.root_keys[:2] if role == "targets" else ()))

    def set_small(self, role: str, path: str, text: str) -> None:
        self.targets[path] = text.encode()
        self.set_target(role, path, text.encode())

    def set_bundle(self, path: str, data: bytes, release: int, role: str = "model-digits") -> None:
        custom = {"model": "digits", "release": release, "variant": "int8", "index": "0" * 64}
        self.set_target(role, path, data, custom)

    def publish(self, *, leave_out: str = "", version: int | None = None) -> None:
        self.version = self.version + 1 if version is None else version
        names = [name for name in ("targets", *PATHS) if name != leave_out]
        meta = {f"{name}.json": self._meta(name) for name in names}
        snapshot = Snapshot(version=self.version, expires=self.expires, meta=meta)
        data = _signed(snapshot, [self.keys["snapshot"]])
        self.files[f"{self.version}.snapshot.json"] = data
        info = MetaFile.from_data(self.version, data, ["sha256"])
        timestamp = Timestamp(version=self.version, expires=self.timestamp_expires, snapshot_meta=info)
        self.files["timestamp.json"] = _signed(timestamp, [self.keys["timestamp"]])

    def _meta(self, name: str) -> MetaFile:
        version = self.roles[name].signed.version
        return MetaFile.from_data(version, self.files[f"{version}.{name}.json"], ["sha256"])

    def pack(self) -> TrustPack:
        return TrustPack.of(dict(self.files), dict(self.targets))

    def copy(self) -> "Repository":
        """Return a repository of the same keys that goes its own way."""
        made = copy.copy(self)
        made.files, made.targets = dict(self.files), dict(self.targets)
        made.roles = {name: Metadata.from_bytes(role.to_bytes()) for name, role in self.roles.items()}
        made.keys = dict(self.keys)
        return made


def _signed(signed: Root | Targets | Snapshot | Timestamp, signers: list[CryptoSigner]) -> bytes:
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


@dataclass
class Bench:
    """A repository and a device's store."""

    folder: Path
    repository: Repository
    clock: ManualClock
    store: TrustStore

    def reopen(self) -> TrustStore:
        """Start again on what is on disk."""
        self.store = TrustStore(self.folder, self.repository.first_root, self.clock)
        return self.store

    def accept(self) -> None:
        self.store.accept("digits", self.repository.pack())

    def version(self, name: str) -> int:
        """Return the stored version of a role."""
        document = json.loads((self.folder / "metadata" / f"{name}.json").read_bytes())
        return int(document["signed"]["version"])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    repository = Repository()
    clock = ManualClock(START)
    folder = tmp_path / "trust"
    return Bench(folder, repository, clock, TrustStore(folder, repository.first_root, clock))


@pytest.fixture
def new_signer() -> Callable[[], CryptoSigner]:
    return CryptoSigner.generate_ed25519


@pytest.fixture
def stage(bench: Bench, tmp_path: Path) -> Iterator[Stage]:
    """A device that has not installed anything yet, and the other ends of its conversation."""
    folder = tmp_path / "device"
    folder.mkdir()
    made = Stage(bench, folder)
    yield made
    made.close()
