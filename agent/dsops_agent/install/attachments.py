"""The files that a bundle brings for programs on the device: plain files in the folder ``files`` beside it.

The folder is made whole under another name and then takes its place, so what it holds is always of one bundle. A
program that opens the folder once, and its files relative to that, sees one release, whatever is installed meanwhile.
"""

import os
import shutil
from pathlib import Path

from dsops.bundle import Bundle, file_digest
from dsops.files import fsync_folder

FOLDER = "files"
_FRESH = f".{FOLDER}.new"
_OLD = f".{FOLDER}.old"


def find_wrong(bundle: Bundle, place: Path) -> str:
    """Return what is wrong with the files beside a bundle, or empty.

    Args:
        bundle: The bundle.
        place: The slot's folder.

    Raises:
        OSError: The disk fails.
    """
    wanted = {attachment.blob for attachment in bundle.manifest.files}
    folder = place / FOLDER
    if not _is_folder(folder):
        return f"the folder {FOLDER!r} is missing" if wanted else ""
    found = {entry.name for entry in folder.iterdir()}
    if found != wanted or not wanted:
        name = min(found ^ wanted, default="")
        return f"file {name!r} is {'missing' if name in wanted else 'not one of the bundle'}"
    return next((f"file {name!r} is damaged" for name in sorted(wanted) if not _is_whole(bundle, folder, name)), "")


def prepare(bundle: Bundle, place: Path) -> None:
    """Write a bundle's files durably, beside those that are in use.

    Raises:
        OSError: The disk is full or fails.
        DigestMismatch: The bundle is damaged.
    """
    fresh = place / _FRESH
    _remove(fresh)
    fresh.mkdir(parents=True)
    for attachment in bundle.manifest.files:
        with (fresh / attachment.blob).open("xb") as file:
            for piece in bundle.pieces(attachment.blob):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    fsync_folder(fresh)


def adopt(place: Path) -> None:
    """Let what was prepared take the place of what is there, durably; nothing is there when nothing was prepared.

    Raises:
        OSError: The disk fails.
    """
    fresh, folder, old = place / _FRESH, place / FOLDER, place / _OLD
    _remove(old)
    if os.path.lexists(folder):
        folder.rename(old)
    if any(fresh.iterdir()):
        fresh.rename(folder)
    fsync_folder(place)
    _remove(old)
    _remove(fresh)


def sweep(place: Path) -> None:
    """Remove what an interrupted change left behind.

    Raises:
        OSError: The disk fails.
    """
    _remove(place / _FRESH)
    _remove(place / _OLD)


def _is_whole(bundle: Bundle, folder: Path, name: str) -> bool:
    path, blob = folder / name, bundle.manifest.blob(name)
    if path.is_symlink() or not path.is_file() or path.stat().st_size != blob.size_bytes:
        return False
    return file_digest(path)[0] == blob.sha256


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
