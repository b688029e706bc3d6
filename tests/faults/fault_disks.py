"""Disks that can lose power: file systems in image files. A copy of the image is what a power cut would leave.

What was not synced is in memory only, and so not in the image; mounting the copy replays the journal.
"""

import contextlib
import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

IMAGE_BYTES = 320 << 20
_EXT4 = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard"]
MAKE = {"ext4": _EXT4, "ext4 noauto_da_alloc": _EXT4, "xfs": ["mkfs.xfs", "-q", "-f"]}
OPTIONS = {"ext4": "loop,commit=600", "ext4 noauto_da_alloc": "loop,commit=600,noauto_da_alloc", "xfs": "loop,nouuid"}
KINDS = tuple(MAKE)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Disk:
    """A file system in an image of our own, mounted."""

    kind: str
    image: Path
    mounted: Path

    @classmethod
    def make(cls, kind: str, folder: Path) -> "Disk":
        """Make a fresh file system and mount it."""
        folder.mkdir(parents=True, exist_ok=True)
        image = folder / f"{uuid.uuid4().hex}.img"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        _run(*MAKE[kind], str(image))
        return cls._mount(kind, image)

    @classmethod
    def _mount(cls, kind: str, image: Path) -> "Disk":
        mounted = image.with_suffix("")
        mounted.mkdir()
        _run("mount", "-o", OPTIONS[kind], str(image), str(mounted))
        return cls(kind, image, mounted)

    def commit_journal(self) -> None:
        """Sync something else, so that the file system commits all metadata, but not the data of other files."""
        with (self.mounted / "unrelated").open("ab") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())

    def cut(self) -> "Disk":
        """Return the disk as a power cut leaves it now, mounted again.

        The copy takes its time: what writes must be stopped meanwhile, or the copy has what was never on one disk.
        """
        copy = self.image.with_name(f"{uuid.uuid4().hex}.img")
        _run("cp", "--sparse=always", str(self.image), str(copy))
        return self._mount(self.kind, copy)

    def leave(self) -> None:
        """Unmount and remove it."""
        unmount(self.mounted)
        self.image.unlink(missing_ok=True)


class Small:
    """A tmpfs of our own with a limit that can be raised."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def used_bytes(self) -> int:
        return shutil.disk_usage(self.folder).used

    def fill(self, left_bytes: int) -> Path:
        """Write a file that leaves so much room."""
        other = self.folder / "other"
        other.write_bytes(bytes(shutil.disk_usage(self.folder).free - left_bytes))
        return other

    def limit(self, **limits: str | int) -> None:
        options = ",".join(f"{name}={value}" for name, value in limits.items())
        again = "remount," if self.folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)


def unmount(mounted: Path) -> None:
    """Unmount a folder of ours, at once if nobody holds it, else when the last one lets go."""
    if mounted.is_mount():
        try:
            _run("umount", str(mounted))
        except RuntimeError:
            _run("umount", "-l", str(mounted))
    with contextlib.suppress(OSError):
        mounted.rmdir()


def unmount_below(folder: Path) -> None:
    """Unmount what a harness that was killed left mounted below its own folder."""
    mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    for place in [line.split()[1] for line in mounts]:
        if Path(place).is_relative_to(folder):
            unmount(Path(place))


def lacking(folder: Path) -> str:
    """Return why this machine has no disks that lose power, or empty."""
    tools = [tool for tool in ("mount", "umount", "mkfs.ext4", "mkfs.xfs") if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} not installed"
    for kind in KINDS:
        try:
            Disk.make(kind, folder).leave()
        except (RuntimeError, OSError) as error:
            return f"no image of {kind} can be mounted: {error}"
    return ""
