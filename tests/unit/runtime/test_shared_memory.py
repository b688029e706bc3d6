"""Regions of shared memory, among them those whose owner means no good."""

import gc
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from dsops.errors import Conflict, Forbidden, InvalidInput, NotFound
from dsops_agent.runtime.shared_memory import MAX_REGIONS, Regions, Span

SHM = Path("/dev/shm")


@pytest.fixture
def key() -> Iterator[str]:
    name = f"dsops-test-{secrets.token_hex(8)}"
    (SHM / name).write_bytes(bytes(range(256)) * 16)
    yield name
    (SHM / name).unlink(missing_ok=True)


def regions(*, may: bool = True) -> Regions:
    return Regions(lambda _: may)


def open_descriptors() -> list[str]:
    """Return those of shared memory; what else this process opens and closes meanwhile is not the matter."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this look, for one
            found.append(str(path.readlink()))
    return sorted(name for name in found if name.startswith(f"{SHM}/"))


def test_a_region_is_read_and_written_at_its_offsets(key: str) -> None:
    known = regions()
    known.register("in", f"/{key}", 100, 1000)
    region = known.get("in")
    assert region.read(Span("in", 5, 10)).tolist() == [110, 111, 112, 113, 114]
    region.write(Span("in", 3, 20), b"\x01\x02")
    assert (SHM / key).read_bytes()[118:124] == bytes([118, 119, 1, 2, 122, 123])
    for size, offset in ((1001, 0), (1, 1000), (-1, 0), (1, -1)):
        with pytest.raises(InvalidInput, match="not inside"):
            region.read(Span("in", size, offset))
    with pytest.raises(InvalidInput, match="an output has 4 bytes"):
        region.write(Span("in", 3), b"1234")


def test_what_was_read_does_not_change_afterwards(key: str) -> None:
    known = regions()
    known.register("in", key, 0, 4096)
    before = known.get("in").read(Span("in", 4))
    (SHM / key).write_bytes(b"\xff" * 4096)
    assert before.tolist() == [0, 1, 2, 3]


def test_an_object_that_its_owner_shrinks_is_an_error_and_no_sigbus(key: str) -> None:
    known = regions()
    known.register("in", key, 0, 4096)
    os.truncate(SHM / key, 10)
    region = known.get("in")
    assert region.read(Span("in", 10)).tolist() == list(range(10))
    with pytest.raises(InvalidInput, match="shorter than it was registered"):
        region.read(Span("in", 11))
    with pytest.raises(InvalidInput, match="shorter than it was registered"):
        region.write(Span("in", 100), b"x" * 100)
    assert (SHM / key).stat().st_size == 10


def test_the_descriptor_lives_as_long_as_somebody_uses_it(key: str) -> None:
    before = open_descriptors()
    known = regions()
    known.register("in", key, 0, 4096)
    region = known.get("in")
    known.unregister("in")
    assert np.array_equal(region.read(Span("in", 4)), [0, 1, 2, 3])
    with pytest.raises(NotFound):
        known.get("in")
    del region
    gc.collect()
    assert open_descriptors() == before


def test_a_refused_object_leaves_no_descriptor_open(key: str) -> None:
    before = open_descriptors()
    with pytest.raises(InvalidInput, match="too short: 4096 of 4097"):
        regions().register("in", key, 1, 4096)
    with pytest.raises(Forbidden, match="belongs to another user"):
        regions(may=False).register("in", key, 0, 1)
    known = regions()
    known.register("in", key, 0, 1)
    with pytest.raises(Conflict, match="registered already"):
        known.register("in", key, 0, 1)
    known.unregister("")
    gc.collect()
    assert open_descriptors() == before


@pytest.mark.parametrize("key", ["", "/", ".", "..", "a/b", "/../etc/passwd", "x" * 256, "a\n", "a\0b", "\ud800"])
def test_a_key_is_a_name_and_no_path(key: str) -> None:
    with pytest.raises(InvalidInput, match="no name of a shared memory object"):
        regions().register("in", key, 0, 1)


@pytest.mark.parametrize(
    ("name", "offset", "size"),
    [
        ("", 0, 1),
        ("x" * 129, 0, 1),
        ("a\n", 0, 1),
        ("a", -1, 1),
        ("a", 0, 0),
        ("a", 0, (1 << 30) + 1),
        ("a", 1 << 60, 1),
    ],
)
def test_a_region_has_a_name_and_a_size(name: str, offset: int, size: int) -> None:
    with pytest.raises(InvalidInput, match="a region"):
        regions().register(name, "key", offset, size)


def test_neither_links_nor_pipes_nor_folders_are_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"1234")
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    known = Regions(lambda _: True, tmp_path)
    for key in ("link", "pipe", "folder"):
        with pytest.raises(InvalidInput, match="no shared memory object"):
            known.register("in", key, 0, 4)
    with pytest.raises(NotFound, match="there is no shared memory object"):
        known.register("in", "nothing", 0, 4)


def test_there_is_an_end_to_regions(key: str) -> None:
    known = regions()
    for number in range(MAX_REGIONS):
        known.register(str(number), key, 0, 1)
    with pytest.raises(Conflict, match="64 regions"):
        known.register("more", key, 0, 1)
    assert len(known.status()) == MAX_REGIONS
