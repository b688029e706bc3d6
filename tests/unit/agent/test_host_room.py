"""Memory and disk of the host: the tightest limit of a control group binds, of either version, and of groups around."""

from pathlib import Path

import pytest

from dsops.errors import StateDamaged
from dsops_agent.install.ports import Memory
from dsops_agent.room import HostRoom

HOST = Memory(16_000, 9_000)


def room(folder: Path, own: str) -> HostRoom:
    (folder / "own").write_text(own)
    return HostRoom(folder, folder / "cg", folder / "own", lambda: HOST)


def group(folder: Path, limit: str, used: int, *, cached: int = 0, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(limit + "\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


def test_without_groups_the_host_is_the_limit(tmp_path: Path) -> None:
    assert room(tmp_path, "").memory() == HOST
    assert room(tmp_path, "0::/\n").memory() == HOST
    (tmp_path / "own").unlink()
    assert HostRoom(tmp_path, tmp_path, tmp_path / "own", lambda: HOST).memory() == HOST


def test_a_group_bounds_its_processes_and_cached_files_make_way(tmp_path: Path) -> None:
    group(tmp_path / "cg/system.slice/dsops", "4000", 3000, cached=500)
    assert room(tmp_path, "0::/system.slice/dsops\n").memory() == Memory(4000, 1500)


def test_a_group_around_it_bounds_it_too(tmp_path: Path) -> None:
    group(tmp_path / "cg/a/b", "max", 10)
    group(tmp_path / "cg/a", "2000", 1900)
    assert room(tmp_path, "0::/a/b\n").memory() == Memory(2000, 100)


def test_the_first_version_is_read_where_memory_is_in_it(tmp_path: Path) -> None:
    group(tmp_path / "cg/memory/box", "3000", 2999, version=1)
    group(tmp_path / "cg/memory", str(2**63 - 4096), 5, version=1)
    assert room(tmp_path, "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n").memory() == Memory(3000, 1)


def test_a_group_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    group(tmp_path / "cg/full", "3000", 3100)
    assert room(tmp_path, "0::/full\n").memory() == Memory(3000, 0)


def test_this_host_has_memory_and_a_disk(tmp_path: Path) -> None:
    here = HostRoom(tmp_path)
    found = here.memory()
    assert 0 < found.free_bytes <= found.total_bytes
    assert here.disk_bytes() > 0
    with pytest.raises(StateDamaged, match="size of the disk"):
        HostRoom(tmp_path / "absent").disk_bytes()
