"""A small TUF repository in memory and a device's store on disk.

Root and targets are signed by 2 of 3 offline keys, model-digits by its 2 owners; fleet, policy, model-words, snapshot
and timestamp have a key each. Every key is real, so a test is a thief of just those keys that it uses.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
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
from dsops.bundle import sha256_hex
from dsops.clock import ManualClock, utc_text
from dsops.head import ISSUED_FIELD, ROOTS_FIELD
from dsops.trust import Director, Policy
from dsops_agent.trust.store import TrustStore

START = datetime(2026, 5, 1, tzinfo=UTC)
PATHS = {
    "fleet": ["fleet/*"],
    "policy": ["policy/*"],
    "model-digits": ["digits/*"],
    "model-words": ["words/*"],
}
DAY = 86400.0
OLD_BUNDLE, NEW_BUNDLE = "digits/1.int8.bundle", "digits/2.int8.bundle"
SECOND_OWNER = "second owner of digits"


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
        for name in ("snapshot", "timestamp", *PATHS, SECOND_OWNER):
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
        for model in ("digits", "words"):
            self.set_small("policy", f"policy/{model}.json", Policy(model=model).model_dump_json())
        self.sign_role("model-words")
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
            keys = {signer.public_key.keyid: signer.public_key for signer in self.signers(name)}
            delegations.keys.update(keys)
            delegations.roles[name] = DelegatedRole(name, [*keys], len(keys), terminating=True, paths=paths)
            self.roles[name] = Metadata(Targets(expires=self.expires))
        self.roles["targets"] = Metadata(Targets(expires=self.expires, delegations=delegations))
        self.sign_role("targets", *self.root_keys[:2])

    def signers(self, name: str) -> list[CryptoSigner]:
        """Who signs a role when all is well."""
        if name == "targets":
            return self.root_keys[:2]
        return [self.keys[name], self.keys[SECOND_OWNER]] if name == "model-digits" else [self.keys[name]]

    def sign_role(self, name: str, *signers: CryptoSigner) -> None:
        role = self.roles[name]
        role.signed.version += f"{role.signed.version}.{name}.json" in self.files
        data = _signed(role.signed, list(signers) or self.signers(name))
        self.files[f"{role.signed.version}.{name}.json"] = data

    def set_target(self, role: str, path: str, data: bytes, custom: dict[str, object] | None = None) -> None:
        entry = TargetFile.from_data(path, data, ["sha256"])
        if custom:
            entry.unrecognized_fields["custom"] = custom
        self.roles[role].signed.targets[path] = entry
        self.sign_role(role)

    def set_small(self, role: str, path: str, text: str) -> None:
        self.targets[path] = text.encode()
        self.set_target(role, path, text.encode())

    def set_bundle(self, path: str, data: bytes, release: int, role: str = "model-digits") -> None:
        custom = {"model": "digits", "release": release, "variant": "int8", "index": "0" * 64, "needs": "0" * 64}
        self.set_target(role, path, data, custom)

    def publish(self, *, leave_out: str = "", version: int | None = None, issued: datetime = START) -> None:
        self.version = self.version + 1 if version is None else version
        names = [name for name in ("targets", *PATHS) if name != leave_out]
        meta = {f"{name}.json": self._meta(name) for name in names}
        snapshot = Snapshot(version=self.version, expires=self.expires, meta=meta)
        data = _signed(snapshot, [self.keys["snapshot"]])
        self.files[f"{self.version}.snapshot.json"] = data
        self._sign_timestamp(self.version, self.version, issued)

    def _sign_timestamp(self, snapshot: int, version: int, issued: datetime) -> None:
        info = MetaFile.from_data(snapshot, self.files[f"{snapshot}.snapshot.json"], ["sha256"])
        roots = [sha256_hex(self.files[f"{n}.root.json"]) for n in range(1, self.root.version + 1)]
        said = {ROOTS_FIELD: roots, ISSUED_FIELD: utc_text(issued)}
        timestamp = Timestamp(
            version=version, expires=self.timestamp_expires, snapshot_meta=info, unrecognized_fields=said
        )
        self.files["timestamp.json"] = _signed(timestamp, [self.keys["timestamp"]])

    def retime(self, *, version: int | None = None, issued: datetime = START) -> None:
        """Sign a new timestamp for the snapshot that is there."""
        snapshot = json.loads(self.head)["signed"]["meta"]["snapshot.json"]["version"]
        self._sign_timestamp(snapshot, version or json.loads(self.head)["signed"]["version"] + 1, issued)

    def rotate(self, name: str, fresh: CryptoSigner) -> None:
        """Publish a root that gives an online role another key."""
        self.root.version += 1
        self.root.revoke_key(self.keys[name].public_key.keyid, name)
        self.root.add_key(fresh.public_key, name)
        self.keys[name] = fresh
        self.publish_root()

    def _meta(self, name: str) -> MetaFile:
        version = self.roles[name].signed.version
        return MetaFile.from_data(version, self.files[f"{version}.{name}.json"], ["sha256"])

    @property
    def head(self) -> bytes:
        return self.files["timestamp.json"]

    def documents(self) -> dict[str, bytes]:
        """Everything but the head, under the digests that the metadata give; a hostile one may hold other bytes."""
        return {digest: data for digest, data in self._named() if data is not None}

    def _named(self) -> Iterator[tuple[str, bytes | None]]:
        timestamp = json.loads(self.head)["signed"]
        for number, digest in enumerate(timestamp[ROOTS_FIELD], start=1):
            yield digest, self.files.get(f"{number}.root.json")
        info = timestamp["meta"]["snapshot.json"]
        snapshot = self.files.get(f"{info['version']}.snapshot.json", b"")
        yield info["hashes"]["sha256"], snapshot
        for name, meta in json.loads(snapshot)["signed"]["meta"].items():
            yield meta["hashes"]["sha256"], self.files.get(f"{meta['version']}.{name}")
        for role in ("fleet", "policy"):
            for path, target in self.roles[role].signed.targets.items():
                yield target.hashes["sha256"], self.targets.get(path)

    def copy(self) -> "Repository":
        """Return a repository of the same keys that goes its own way."""
        made = copy.copy(self)
        made.files, made.targets = dict(self.files), dict(self.targets)
        made.roles = {name: Metadata.from_bytes(role.to_bytes()) for name, role in self.roles.items()}
        made.keys = dict(self.keys)
        made.root = copy.deepcopy(self.root)
        made.root_keys = list(self.root_keys)
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

    def reopen(self, clock: ManualClock | None = None, built: datetime = START - timedelta(days=9)) -> TrustStore:
        """Start again on what is on disk."""
        self.store.close()
        self.clock = clock or self.clock
        self.store = TrustStore(self.folder, self.repository.first_root, self.clock, built)
        return self.store

    def accept(self, repository: Repository | None = None, model: str = "digits") -> None:
        """Take everything in that a repository has."""
        offered = repository or self.repository
        assert self.store.accept(model, offered.head, offered.documents()) == ()

    def version(self, name: str) -> int:
        """Return the stored version of a role."""
        document = json.loads((self.folder / "metadata" / f"{name}.json").read_bytes())
        return int(document["signed"]["version"])


@contextmanager
def opened(folder: Path) -> Iterator[Bench]:
    """A fresh repository, and a device that has its first root and nothing else."""
    repository = Repository()
    clock = ManualClock(START)
    made = Bench(folder, repository, clock, TrustStore(folder, repository.first_root, clock))
    yield made
    made.store.close()


def new_signer() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()
