"""The second subject: the trust store takes newer metadata in, and the spool takes records, while faults strike."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fault_acks import Acks, read_acks
from fault_verdict import Verdict
from trust_stage import NEW_BUNDLE, START, Repository, new_signer

from dsops.clock import ManualClock
from dsops.errors import DsopsError, UntrustedBundle
from dsops_agent.telemetry.spool import Spool
from dsops_agent.trust.store import TrustStore

logger = logging.getLogger(__name__)

MODEL = "digits"
RECORDS = 5
_CAP_BYTES = 256 * 1024


@dataclass(frozen=True)
class Published:
    """What a repository offers at one time: its head, and documents by digest."""

    head: bytes
    documents: Mapping[str, bytes]


@dataclass(frozen=True)
class TrustKit:
    """An embedded root, old metadata, and newer one of a rotated root, a new bundle and new versions."""

    root: bytes
    old: Published
    new: Published

    @classmethod
    def make(cls) -> "TrustKit":
        repository = Repository()
        old = Published(repository.head, repository.documents())
        root = repository.first_root
        repository.rotate("snapshot", new_signer())
        repository.set_bundle(NEW_BUNDLE, b"release two", 2)
        repository.publish()
        return cls(root, old, Published(repository.head, repository.documents()))


def _store(folder: Path, kit: TrustKit) -> TrustStore:
    return TrustStore(folder / "trust", kit.root, ManualClock(START), START - timedelta(days=9))


def _knows_new(store: TrustStore) -> bool:
    return store.target(MODEL, NEW_BUNDLE) is not None


def take_in(folder: Path, kit: TrustKit, acks: Acks, ready: Callable[[], None], offered: Published) -> None:
    """Open the store, take metadata in, and acknowledge it."""
    ready()
    store = _store(folder, kit)
    assert store.accept(MODEL, offered.head, offered.documents) == ()
    acks.put(trusts="new" if _knows_new(store) else "old")
    store.keep_time(at_once=True)


def judge_trust(folder: Path, kit: TrustKit, acks: Path, *, is_update: bool) -> Verdict:
    """Say what is wrong with a store after a fault: offline first, then the metadata come again."""
    verdict = Verdict()
    acked = [ack["trusts"] for ack in read_acks(acks) if "trusts" in ack]
    try:
        store = _store(folder, kit)
    except DsopsError as error:
        verdict.bricked.append(f"the store does not open: {error}")
        return verdict
    try:
        store.policy(MODEL)
        if acked[-1:] == ["new"] and not _knows_new(store):
            verdict.lost.append("the newer metadata, which had been accepted")
    except UntrustedBundle as error:  # half way nothing is believed until the head comes again; what runs keeps running
        if acked[-1:] == ["new"] or (acked and not is_update):
            verdict.lost.append(f"what was trusted: {error}")
    try:
        assert store.accept(MODEL, kit.new.head, kit.new.documents) == ()
        assert _knows_new(store)
        leftovers = [str(path) for path in (folder / "trust").rglob(".*.tmp")]
        assert not leftovers, leftovers
    except (DsopsError, AssertionError) as error:
        verdict.broken.append(f"the metadata are not accepted again: {error!r}")
    verdict.end = "trusted"
    return verdict


def fill(folder: Path, acks: Acks, ready: Callable[[], None]) -> None:
    """Open the spool and let it take records, each acknowledged."""
    ready()
    spool = Spool(folder / "spool", _CAP_BYTES)
    for number in range(RECORDS):
        try:
            spool.append("telemetry", [b"%d" % number])
        except DsopsError as error:
            acks.put(warned=str(error))
        else:
            acks.put(spooled=number)


def judge_spool(folder: Path, acks: Path) -> Verdict:
    """Say what is wrong with a spool after a fault: what it took is there, once, and it takes more."""
    verdict = Verdict()
    taken = [ack["spooled"] for ack in read_acks(acks) if "spooled" in ack]
    try:
        spool = Spool(folder / "spool", _CAP_BYTES)
        spool.append("telemetry", [b"more"])
        batch = spool.batch("telemetry", 1 << 20, 100)
    except DsopsError as error:
        verdict.bricked.append(f"the spool cannot be used: {error}")
        return verdict
    found = list(batch.records) if batch else []
    verdict.lost += [f"record {number}" for number in taken if b"%d" % number not in found]
    if len(found) != len(set(found)) or found[-1:] != [b"more"]:
        verdict.broken.append(f"the spool holds {found}")
    verdict.end = "spooled"
    return verdict
