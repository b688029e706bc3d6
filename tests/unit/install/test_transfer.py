"""A transfer over real files: resume, damage, hostile chunks."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slot_disk import FailsOnce

from dsops.bundle import bundle_index, describe_blobs, encode_bundle, sha256_hex
from dsops.chunks import MAX_CHUNK_BYTES, ChunkIndex, index_of, split
from dsops.clock import ManualClock
from dsops.directive import TransferLimits
from dsops.errors import DigestMismatch, DsopsError, MalformedBundle, NoSpace, StateDamaged, TransferFailed
from dsops.manifest import Attachment, Manifest, TensorSpec
from dsops.messages import Problem
from dsops_agent.install.fetch import Pace, Transfer, Wanted, bytes_on_disk, part_path, remove, staged_names
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import Chunk
from dsops_agent.install.slots import disk_errors
from dsops_agent.install.spending import Spending

SIZE = 100
DATA = bytes(range(256)) * 4 + bytes(150) + b"tail"


@dataclass
class Source:
    """Remembers what was asked for."""

    asked: list[str] = field(default_factory=list)
    open: dict[str, None] = field(default_factory=dict)
    needed: list[str] = field(default_factory=list)
    near: bool = False
    is_away: bool = False

    def request(self, chunk: Chunk) -> None:
        assert chunk.near <= self.near
        self.asked.append(chunk.digest)
        self.open[chunk.digest] = None

    def cancel(self, digest: str) -> None:
        self.open.pop(digest, None)

    def has_near(self, chunk: Chunk) -> bool:
        return self.near

    def is_cut_off(self, chunk: Chunk) -> bool:
        return self.is_away

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        self.needed += [chunk.digest for chunk in chunks]


def wanted(data: bytes = DATA, index: ChunkIndex | None = None) -> Wanted:
    index = index or index_of(data, SIZE)
    return Wanted(hashlib.sha256(data).hexdigest(), len(data), index.digest)


def offered(data: bytes = DATA) -> dict[str, bytes]:
    index = index_of(data, SIZE)
    chunks = {hashlib.sha256(piece).hexdigest(): piece for piece in split(data, SIZE)}
    return {index.digest: index.encode(), **chunks}


def begin(folder: Path, what: Wanted | None = None) -> tuple[Transfer, Source]:
    source = Source()
    transfer = Transfer(folder, what or wanted(), source, Pace(window=4, timeout_s=5))
    transfer.start(0)
    return transfer, source


def feed(transfer: Transfer, source: Source, chunks: dict[str, bytes], limit: int = 1000, now_s: float = 1.0) -> None:
    while source.open and limit:
        limit -= 1
        digest = next(iter(source.open))
        transfer.arrived(digest, chunks[digest], now_s)


def test_file_is_fetched_index_first(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    assert source.asked == [wanted().index]
    assert transfer.progress == 0
    feed(transfer, source, offered())
    assert transfer.done
    assert transfer.progress == 1
    assert transfer.path.read_bytes() == DATA
    assert not source.open
    assert len(source.asked) == len(set(source.asked)), "equal chunks are asked for once"
    transfer.close()


def test_kill_and_resume_ask_only_for_what_is_missing(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    feed(transfer, source, offered(), limit=6)
    assert 0 < transfer.progress < 1
    came = set(source.asked) - set(source.open)
    again, second = begin(tmp_path)
    assert again.progress == transfer.progress
    feed(again, second, offered())
    assert again.done
    assert not came & set(second.asked)


def test_chunk_damaged_on_disk_is_fetched_again(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    feed(transfer, source, offered(), limit=6)
    transfer.close()
    data = bytearray(transfer.path.read_bytes())
    data[0] ^= 1
    transfer.path.write_bytes(data)
    again, second = begin(tmp_path)
    feed(again, second, offered())
    assert hashlib.sha256(DATA[:SIZE]).hexdigest() in second.asked
    assert again.path.read_bytes() == DATA


def test_damaged_index_on_disk_is_fetched_again(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    feed(transfer, source, offered(), limit=3)
    (tmp_path / f"{wanted().sha256}.index").write_bytes(b"junk")
    _, second = begin(tmp_path)
    assert second.asked == [wanted().index]


def test_file_that_is_whole_at_the_start_is_done(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    feed(transfer, source, offered())
    again, second = begin(tmp_path)
    assert again.done
    assert second.asked == []


def test_a_file_that_the_disk_did_not_sync_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second fsync of it would succeed, though what the first one lost is not on the disk."""
    transfer, source = begin(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", FailsOnce(transfer.path))
        with pytest.raises(StateDamaged, match="Input/output error"):
            feed(transfer, source, offered())
    transfer.close()
    again, second = begin(tmp_path)
    assert not again.done
    assert again.progress == 0
    feed(again, second, offered())
    assert again.done


def test_wrong_bytes_are_dropped_and_counted(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    transfer.arrived(wanted().index, b"junk", 1.0)
    transfer.arrived(wanted().index, bytes(MAX_CHUNK_BYTES + 1), 1.0)
    assert (transfer.wrong, source.needed, source.asked) == (2, [wanted().index], [wanted().index] * 2)
    with pytest.raises(TransferFailed, match="wrong bytes 3 times"):
        transfer.arrived(wanted().index, b"junk", 1.0)


def test_unasked_chunks_change_nothing(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    for digest, data in offered().items():
        if digest != wanted().index:
            transfer.arrived(digest, data, 1.0)
    assert source.asked == [wanted().index]
    assert not transfer.path.exists()
    assert transfer.wrong == 0


def test_silent_network_fails(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    for now_s in range(5, 160, 5):
        transfer.tick(now_s)
    with pytest.raises(TransferFailed, match="did not come"):
        transfer.tick(160)
    assert source.needed
    transfer.close()
    assert not source.open


def test_signed_nonsense_is_no_index(tmp_path: Path) -> None:
    junk = b"nonsense"
    what = Wanted("0" * 64, 5, hashlib.sha256(junk).hexdigest())
    transfer, _ = begin(tmp_path, what)
    with pytest.raises(MalformedBundle):
        transfer.arrived(what.index, junk, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_index_of_another_length_is_refused(tmp_path: Path) -> None:
    what = Wanted(wanted().sha256, len(DATA) + 1, wanted().index)
    transfer, source = begin(tmp_path, what)
    with pytest.raises(MalformedBundle, match="another file"):
        feed(transfer, source, offered())


def test_index_that_does_not_make_the_bundle_is_refused(tmp_path: Path) -> None:
    other = bytes(reversed(DATA))
    what = Wanted(wanted().sha256, len(DATA), index_of(other, SIZE).digest)
    transfer, source = begin(tmp_path, what)
    with pytest.raises(DigestMismatch, match="do not make the signed bundle"):
        feed(transfer, source, offered(other))


def test_a_reconnection_asks_for_nothing_twice(tmp_path: Path) -> None:
    transfer, source = begin(tmp_path)
    transfer.reconnected(1.0)
    assert source.asked == [wanted().index]
    feed(transfer, source, offered())
    assert transfer.done


def test_files_under_way_are_named_and_removed(tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    assert staged_names(staging) == frozenset()
    names = {"aa.part", "aa.index", ".aa.part.77.tmp", "bb.part"}
    for name in names:
        (staging / name).write_bytes(b"x")
    assert staged_names(staging) == names
    remove(staging, frozenset(names - {"bb.part"}) | {"absent"})
    assert staged_names(staging) == {"bb.part"}


def test_holes_take_no_space(tmp_path: Path) -> None:
    path = part_path(tmp_path, "aa")
    assert bytes_on_disk(path) == 0
    with path.open("wb") as file:
        file.truncate(1 << 24)
    assert bytes_on_disk(path) < 1 << 20


@pytest.mark.parametrize(("number", "error"), [(28, NoSpace), (122, NoSpace), (5, StateDamaged), (13, StateDamaged)])
def test_disk_errors_are_told_apart(number: int, error: type[DsopsError]) -> None:
    with pytest.raises(error, match="cannot write"), disk_errors("write"):
        raise OSError(number, "the disk says no")


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(min_size=1, max_size=2000),
    fates=st.lists(st.sampled_from(["good", "lost", "wrong", "twice", "kill"]), max_size=40),
)
def test_any_network_and_any_kill_end_in_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, fates: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("staging")
    chunks = offered(data)
    fate = iter(fates)
    transfer, source = begin(folder, wanted(data))
    now_s = 0.0
    for _ in range(2000):
        if transfer.done:
            break
        now_s += 1
        happens = next(fate, "good")
        try:
            _meet(transfer, source, chunks, happens, now_s)
        except TransferFailed:
            happens = "kill"
        if happens == "kill":
            transfer.close()
            transfer, source = begin(folder, wanted(data))
            now_s = 0.0
    assert transfer.path.read_bytes() == data
    transfer.close()


def _meet(transfer: Transfer, source: Source, chunks: dict[str, bytes], fate: str, now_s: float) -> None:
    transfer.tick(now_s)
    digest = next(iter(source.open), None)
    if digest is None or fate in ("lost", "kill"):
        return
    for _ in range(2 if fate == "twice" else 1):
        transfer.arrived(digest, b"?" if fate == "wrong" else chunks[digest], now_s)


def bundle_file(folder: Path, release: int, payload: bytes, labels: bytes = b"labels") -> Path:
    """Write a bundle as a slot holds it."""
    blobs = {"golden.bin": b"g" * 40_000, "labels.txt": labels, "model.tflite": payload, "profile.json": b"{}"}
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 2))
    manifest = Manifest(
        model="digits",
        release=release,
        inputs=(spec,),
        outputs=(spec,),
        blobs=describe_blobs(blobs),
        files=(Attachment(blob="labels.txt", kind="config"),),
    )
    path = folder / f"{release}.bundle"
    path.write_bytes(encode_bundle(manifest, blobs))
    return path


def fetch_with(folder: Path, path: Path, *installed: Path) -> tuple[Transfer, int]:
    """Fetch a bundle onto a device that holds others; return the transfer, and how many chunks were asked for."""
    data = path.read_bytes()
    index = bundle_index(data)
    pieces = {sha256_hex(piece): piece for piece in split(data, index.chunk_bytes, index.segments)}
    source = Source()
    what = Wanted(sha256_hex(data), len(data), index.digest)
    transfer = Transfer(folder / "staging", what, source, Pace(window=4, timeout_s=5), installed=installed)
    transfer.start(0)
    feed(transfer, source, {index.digest: index.encode(), **pieces})
    assert transfer.done
    assert transfer.path.read_bytes() == data
    transfer.close()
    return transfer, len(source.asked) - 1


def test_what_an_installed_bundle_holds_is_copied(tmp_path: Path) -> None:
    payload = os.urandom(200_000)
    head_only = payload[:-3_000] + os.urandom(3_000)
    old = bundle_file(tmp_path, 1, payload)
    transfer, asked = fetch_with(tmp_path, bundle_file(tmp_path, 1000, head_only), old)
    assert asked == 2, "the head, which has another length, and the last chunk of the payload"
    assert transfer.copied_bytes > 230_000


def test_blobs_that_stayed_the_same_are_copied_though_they_moved(tmp_path: Path) -> None:
    payload = os.urandom(100_000)
    old = bundle_file(tmp_path, 1, payload)
    _, asked = fetch_with(tmp_path, bundle_file(tmp_path, 1000, payload, labels=os.urandom(50_000)), old)
    assert asked == 1 + 2, "the head, and two chunks of labels"


def test_a_damaged_slot_costs_the_chunks_that_are_damaged(tmp_path: Path) -> None:
    old, new = bundle_file(tmp_path, 1, bytes(range(250)) * 800), bundle_file(tmp_path, 1000, bytes(range(250)) * 800)
    data = bytearray(old.read_bytes())
    data[-150_000] ^= 1
    old.write_bytes(data)
    _, asked = fetch_with(tmp_path, new, old)
    assert asked == 2, "the head, and the damaged chunk"


@pytest.mark.parametrize("harm", ["cut", "absent", "junk", "folder"])
def test_a_slot_that_is_no_bundle_is_passed_over(tmp_path: Path, harm: str) -> None:
    old, sound = bundle_file(tmp_path, 1, b"m" * 70_000), bundle_file(tmp_path, 2, b"m" * 70_000)
    if harm == "cut":
        old.write_bytes(old.read_bytes()[:-1])
    elif harm == "junk":
        old.write_bytes(b"junk")
    else:
        old.unlink()
    if harm == "folder":
        old.mkdir()
    _, asked = fetch_with(tmp_path, bundle_file(tmp_path, 1000, b"m" * 70_000), old, sound)
    assert asked == 1


@pytest.fixture
def thrifty(tmp_path: Path) -> Iterator[tuple[Transfer, Source, ManualClock, dict[str, bytes]]]:
    """A transfer of eight chunks on a device that may fetch three a day."""
    clock = ManualClock()
    journal = Journal(tmp_path / "journal.db")
    spending = Spending(TransferLimits(bytes_per_day=100_000), journal, clock, clock.now)
    data = os.urandom(250_000)
    index = index_of(data)
    source = Source()
    what = Wanted(sha256_hex(data), len(data), index.digest)
    transfer = Transfer(tmp_path / "staging", what, source, Pace(window=4, timeout_s=5), spending=spending)
    transfer.start(clock.monotonic_s())
    yield transfer, source, clock, {index.digest: index.encode(), **{sha256_hex(piece): piece for piece in split(data)}}
    transfer.close()
    journal.close()


Thrifty = tuple[Transfer, Source, ManualClock, dict[str, bytes]]


def test_what_a_stick_brings_costs_nothing_also_when_the_day_is_used_up(thrifty: Thrifty) -> None:
    transfer, source, clock, chunks = thrifty
    feed(transfer, source, chunks, now_s=clock.monotonic_s())
    assert transfer.waiting, "three chunks are fetched, the others wait for tomorrow"
    source.near = True
    assert transfer.next_s is not None
    clock.advance(transfer.next_s - clock.monotonic_s())
    transfer.tick(clock.monotonic_s())
    feed(transfer, source, chunks, now_s=clock.monotonic_s())
    assert transfer.done
    assert clock.now().day == 1


def test_what_nobody_near_by_has_waits_for_the_budget(thrifty: Thrifty) -> None:
    transfer, source, clock, chunks = thrifty
    feed(transfer, source, chunks, now_s=clock.monotonic_s())
    fetched = len(source.asked)
    source.near = True
    clock.advance(20)
    transfer.tick(clock.monotonic_s())
    near = source.asked[fetched:]
    assert near
    assert source.open.keys() == set(near)
    source.near = False
    for digest in near:
        transfer.lost(digest, Problem(code="source.not_found", message="the stick was pulled out"), clock.monotonic_s())
    assert len(source.asked) == fetched + len(near), "the network is not asked"
    assert not source.open
    assert "goes on at 2026-01-02" in transfer.waiting
    feed_days = 0
    while not transfer.done:
        clock.advance(86_400)
        transfer.tick(clock.monotonic_s())
        feed(transfer, source, chunks, now_s=clock.monotonic_s())
        feed_days += 1
    assert feed_days == 2, "three more chunks a day"


def test_what_the_controller_is_asked_for_instead_is_spent(thrifty: Thrifty) -> None:
    transfer, source, clock, chunks = thrifty
    feed(transfer, source, chunks, now_s=clock.monotonic_s())
    source.near = True
    clock.advance(86_400)
    transfer.tick(clock.monotonic_s())
    while not source.needed:  # late again and again: then the controller itself is asked
        clock.advance(6)
        transfer.tick(clock.monotonic_s())
    source.near = False
    for digest in source.needed:
        transfer.arrived(digest, chunks[digest], clock.monotonic_s())
    assert "goes on at 2026-01-03" in transfer.waiting


def test_wrong_bytes_from_a_web_server_count_against_the_day(thrifty: Thrifty) -> None:
    transfer, source, clock, chunks = thrifty
    feed(transfer, source, chunks, limit=1, now_s=clock.monotonic_s())
    transfer.wasted(next(iter(source.open)))
    transfer.wasted("0" * 64)
    feed(transfer, source, chunks, now_s=clock.monotonic_s())
    assert len(set(source.asked)) == 3, "the index, and two chunks, of which one came twice"


def test_half_a_day_without_a_connection_spends_nothing_and_fails_nothing(thrifty: Thrifty) -> None:
    transfer, source, clock, chunks = thrifty
    source.is_away = True
    feed(transfer, source, chunks, limit=2, now_s=clock.monotonic_s())
    asked = list(source.asked)
    for _ in range(12 * 60):
        clock.advance(60)
        transfer.tick(clock.monotonic_s())
    assert source.asked == asked, "nothing is asked for"
    assert transfer.waiting == "there is no connection to the broker"
    source.is_away = False
    transfer.reconnected(clock.monotonic_s())
    transfer.tick(clock.monotonic_s())
    feed(transfer, source, chunks, now_s=clock.monotonic_s())
    assert len(set(source.asked)) == 4, "the index, and three chunks: all that the day allows"
    assert not source.needed


def test_a_transfer_waits_for_the_next_day_and_says_so(thrifty: Thrifty) -> None:
    transfer, source, clock, chunks = thrifty
    said: set[str] = set()
    while not transfer.done:
        feed(transfer, source, chunks, now_s=clock.monotonic_s())
        if not transfer.done:
            said.add(transfer.waiting)
            assert transfer.next_s is not None
            clock.advance(transfer.next_s - clock.monotonic_s())
            transfer.tick(clock.monotonic_s())
    goes_on = "the day's 100 kB are fetched; goes on at 2026-01-0{} 00:00 UTC"
    assert said == {goes_on.format(day) for day in (2, 3)}, "eight chunks of 32 KiB, three a day"
    assert len(source.asked) == len(set(source.asked)), "who waits for a budget does not take a chunk for late"
    assert transfer.waiting == ""
