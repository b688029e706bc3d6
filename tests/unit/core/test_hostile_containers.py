"""What else than a plain file can stand where a bundle is expected, and files that are larger than anything real."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from test_hostile_bundles import container, content, text

from dsops.bundle import Bundle
from dsops.errors import DigestMismatch, MalformedBundle

TEBIBYTE = 1 << 40
LARGE = 256 << 20


def sparse(path: Path, size_bytes: int) -> Path:
    """Write a container whose first blob is as long as it says, and made of holes."""
    value = content()
    rest = sum(blob["size_bytes"] for blob in value["blobs"][1:])
    value["blobs"][0]["size_bytes"] = size_bytes
    path.write_bytes(container(text(value), b""))
    os.truncate(path, path.stat().st_size + size_bytes + rest)
    return path


def test_a_file_of_a_tebibyte_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match="is longer than"):
        Bundle.open(sparse(tmp_path / "x", TEBIBYTE))


def test_a_large_file_is_verified_in_bounded_memory(tmp_path: Path) -> None:
    bundle = Bundle.open(sparse(tmp_path / "x", LARGE))
    tracemalloc.start()
    with pytest.raises(DigestMismatch):
        bundle.verify()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/random", "/dev/tty", ".", "pipe", "x", "absent"])
def test_a_link_to_something_else_is_refused_at_once(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x").symlink_to(target)  # "x" leads to itself
    with pytest.raises(MalformedBundle):
        Bundle.open(tmp_path / "x")


def test_a_refusal_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(container(text(content()), b"hidden"))
    before = (tmp_path / "x").stat().st_mtime_ns
    with pytest.raises(MalformedBundle):
        Bundle.open(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").stat().st_mtime_ns == before


def test_a_file_that_shrinks_while_it_is_open_is_not_taken_for_the_same(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(container(text(content())))
    bundle = Bundle.open(tmp_path / "x")
    os.truncate(tmp_path / "x", (tmp_path / "x").stat().st_size - 1)
    with pytest.raises(DigestMismatch):
        bundle.verify()
