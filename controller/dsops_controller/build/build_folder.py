"""Writes a build's folder: whole or not at all, and never over something that is not a build."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dsops.errors import Conflict, InvalidInput
from dsops.files import fsync_folder, write_atomically
from dsops_controller.build import record

FAILED_SUFFIX = ".failed"


def failed_folder(out_dir: Path) -> Path:
    """Return where the report of a build goes that its gate refused: beside the place of the build."""
    return out_dir.with_name(out_dir.name + FAILED_SUFFIX)


def check_replaceable(out_dir: Path) -> None:
    """Check that a build may be written there, before work is done that would be lost.

    Raises:
        InvalidInput: It is a file.
        Conflict: It holds something that is not a build.
    """
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InvalidInput(f"{out_dir} is not a folder", hint="name another folder")
    marks = (record.FILE_NAME, record.REPORT)
    if any(out_dir.iterdir()) and not any((out_dir / mark).is_file() for mark in marks):
        raise Conflict(
            f"{out_dir} holds something that is not a build", why="it would be replaced", hint="name another folder"
        )


def write_folder(out_dir: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder beside its place and move it there whole; an earlier build is moved away just before.

    Args:
        out_dir: The folder.
        files: Contents by name; a name may have one folder before it.

    Raises:
        InvalidInput: The folder cannot be written.
        NoSpace: The disk is full.
    """
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    except OSError as error:
        raise InvalidInput(f"cannot write {out_dir}", why=str(error.strerror)) from error
    try:
        new, old = work / "new", work / "old"
        for name, data in files.items():
            place = new / name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, data)
        for folder in {(new / name).parent for name in files}:
            fsync_folder(folder)
        if out_dir.exists():
            out_dir.rename(old)
        new.rename(out_dir)
        fsync_folder(out_dir.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove an earlier build or report, if it is there and is one."""
    if folder.is_dir() and ((folder / record.REPORT).is_file() or (folder / record.FILE_NAME).is_file()):
        shutil.rmtree(folder)
