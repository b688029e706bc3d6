"""Writes a build's folder: whole or not at all, and never over something that is not a build."""

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dsops import strictjson
from dsops.errors import Conflict, DsopsError, InvalidInput, NoSpace
from dsops.files import fsync_folder, write_atomically
from dsops_controller.build import record

FAILED_SUFFIX = ".failed"


def failed_folder(out_dir: Path) -> Path:
    """Return where the report of a build goes that its gate refused: beside the place of the build."""
    place = out_dir.resolve()
    return place.with_name(place.name + FAILED_SUFFIX)


def check_replaceable(out_dir: Path, recipe: Path) -> None:
    """Check that a build may be written there, before work is done that would be lost.

    Args:
        out_dir: The folder; links are followed.
        recipe: The recipe's folder, which must not go.

    Raises:
        InvalidInput: It is a file, or the root of a file system, which cannot be replaced.
        Conflict: It is or holds the recipe's folder, or holds something that is not a build.
    """
    place = out_dir.resolve()
    if recipe.resolve().is_relative_to(place):
        raise Conflict(
            f"{out_dir} holds the recipe", why="a build replaces its folder whole", hint="name another folder"
        )
    if not place.exists():
        return
    if not place.is_dir():
        raise InvalidInput(f"{out_dir} is not a folder", hint="name another folder")
    if place.is_mount():
        raise InvalidInput(
            f"{out_dir} is the root of a file system",
            why="a build replaces its folder whole",
            hint=f"name a folder inside: {out_dir / 'build'}",
        )
    if any(place.iterdir()) and not _is_ours(place):
        raise Conflict(
            f"{out_dir} holds something that is not a build", why="it would be replaced", hint="name another folder"
        )


def _is_ours(folder: Path) -> bool:
    """Say whether a folder holds what this module wrote: the marks, and nothing beside them."""
    reports = {record.REPORT, record.REPORT_PAGE}
    names = {entry.name for entry in folder.iterdir()}
    if names <= reports:
        return bool(names)
    try:
        described = strictjson.loads((folder / record.FILE_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    variants = described.get("variants", []) if isinstance(described, dict) else []
    known = {str(entry.get("variant")) for entry in variants if isinstance(entry, dict)}
    return bool(known) and names <= known | reports | {record.FILE_NAME, record.FLOAT_MODEL, record.SHARED}


def write_folder(out_dir: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder beside its place and move it there whole; an earlier build is moved away just before.

    Args:
        out_dir: The folder.
        files: Contents by name; a name may have one folder before it.

    Raises:
        InvalidInput: The folder cannot be written.
        NoSpace: The disk is full.
    """
    out_dir = out_dir.resolve()
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    except OSError as error:
        raise _cannot_write(out_dir, error) from error
    try:
        new = work / "new"
        for name, data in files.items():
            place = new / name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, data)
        for folder in {(new / name).parent for name in files}:
            fsync_folder(folder)
        _exchange(out_dir, new, work / "old")
    except OSError as error:
        raise _cannot_write(out_dir, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove an earlier build or report, if it is there and is one."""
    if folder.is_dir() and _is_ours(folder):
        shutil.rmtree(folder)


def _exchange(out_dir: Path, new: Path, old: Path) -> None:
    """Put a folder in the place of another, which is put back when that fails."""
    with contextlib.suppress(FileNotFoundError):
        out_dir.rename(old)
    try:
        new.rename(out_dir)
    except OSError:
        if old.exists() and not out_dir.exists():
            old.rename(out_dir)
        raise
    fsync_folder(out_dir.parent)


def _cannot_write(out_dir: Path, error: OSError) -> DsopsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"cannot write {out_dir}", why=str(error.strerror))
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return Conflict(f"{out_dir} was written by somebody else at the same time", hint="build it again")
    return InvalidInput(f"cannot write {out_dir}", why=str(error.strerror), hint="name a folder that may be written")
