"""What the host has room for: memory within the limits of control groups, and the disk.

A process may use less than the host has: the limits of its control group, and of every group around it, bind too
(cgroups(7); version 2 ``memory.max`` and ``memory.current``, version 1 ``memory.limit_in_bytes`` and
``memory.usage_in_bytes``). What a group uses includes cached files, which make way: they count as free.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dsops.errors import StateDamaged
from dsops_agent.install.ports import Memory

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Version:
    """How one version of control groups names things."""

    folder: str
    limit: str
    usage: str
    cached: str


_V1 = _Version("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Version("", "memory.max", "memory.current", "inactive_file")


def _whole() -> Memory:
    figures = psutil.virtual_memory()
    return Memory(int(figures.total), int(figures.available))


@dataclass(frozen=True)
class HostRoom:
    """This host; implements :class:`dsops_agent.install.ports.Room`.

    Attributes:
        folder: Where bundles are kept.
        cgroups: Where control groups are mounted.
        own: Which groups this process is in.
        whole: Tells the memory of the whole host.
    """

    folder: Path
    cgroups: Path = _CGROUPS
    own: Path = _OWN
    whole: Callable[[], Memory] = field(default=_whole)

    def memory(self) -> Memory:
        """Return the memory that a process may have: the least of the host's and of every group's."""
        found = [self.whole(), *self._groups()]
        return Memory(min(one.total_bytes for one in found), max(0, min(one.free_bytes for one in found)))

    def disk_bytes(self) -> int:
        """Return the size of the disk that bundles are kept on.

        Raises:
            StateDamaged: The disk does not answer.
        """
        try:
            return shutil.disk_usage(self.folder).total
        except OSError as error:
            raise StateDamaged("cannot ask for the size of the disk", why=str(error.strerror)) from error

    def _groups(self) -> Iterator[Memory]:
        for version, name in self._memberships():
            top = self.cgroups / version.folder
            group = top / name.lstrip("/")
            for folder in (group, *group.parents):
                if (limit := _limit(folder, version)) is not None:
                    yield limit
                if folder == top:
                    break

    def _memberships(self) -> Iterator[tuple[_Version, str]]:
        """Yield the groups that bound this process; proc(5) has a line ``number:controllers:path`` for each."""
        try:
            lines = self.own.read_text().splitlines()
        except OSError:  # not Linux, or no control groups
            return
        for line in lines:
            number, _, rest = line.partition(":")
            controllers, _, name = rest.partition(":")
            if "memory" in controllers.split(","):
                yield _V1, name
            elif number == "0":
                yield _V2, name


def _limit(folder: Path, version: _Version) -> Memory | None:
    try:
        limit = int((folder / version.limit).read_text())
        used = int((folder / version.usage).read_text())
        figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here, or "max": it sets no limit
        return None
    return Memory(limit, limit - used + int(figures.get(version.cached, 0)))
