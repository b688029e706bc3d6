"""Two slots a model on disk: ``<model>/{a,b}/bundle`` and the link ``<model>/active`` that names one of them.

Beside a bundle stand the files that it brings for programs on the device (see :mod:`dsops_agent.install.attachments`):
``<model>/active/files/<blob>``, so that they change together with the model that answers.

What a slot holds is written in the journal after its file is durable and before it is used, and removed from the
journal before its file changes; so a row always tells the truth. What needs room on the disk is written before the slot
gives up what it holds. Order of the durable steps as measured at power cuts: file, its folder, the parent folder, then
the link and its folder.
"""

import errno
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from dsops.bundle import Bundle, file_digest
from dsops.errors import BundleError, DigestMismatch, DsopsError, MalformedBundle, NoSpace, StateDamaged
from dsops.files import fsync_folder, fsync_or_discard
from dsops_agent.install import attachments
from dsops_agent.install.journal import SlotRow
from dsops_agent.install.places import model_of

logger = logging.getLogger(__name__)

_NAMES = ("a", "b")
_LINK = "active"
_READS = 2
"""So often a bundle is read before a disk that fails at it makes it a damaged one: cards and their drivers recover."""
_OF_THE_HOST = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Why a host cannot read any file at the moment: that says nothing of this one."""
_BARRED = frozenset({errno.EACCES, errno.EPERM})
"""Why one file cannot be opened, or none: the other bundles tell which."""


class SlotTable(Protocol):
    """Keeps what each slot holds."""

    def put_slot(self, model: str, row: SlotRow) -> None:
        """Keep a slot's row."""
        ...

    def clear_slot(self, model: str, name: str) -> None:
        """Remove a slot's row."""
        ...

    def slot(self, model: str, name: str) -> SlotRow | None:
        """Return a slot's row."""
        ...


@dataclass(frozen=True)
class SlotFile:
    """An installed bundle: which slot, which file, which bytes."""

    name: str
    path: Path
    digest: str
    length_bytes: int
    release: int
    committed: bool


def disk_free_bytes(folder: Path) -> int:
    """Return the bytes that an ordinary user may still write below ``folder``."""
    return shutil.disk_usage(folder).free


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn what the operating system says of the disk into our errors.

    Raises:
        NoSpace: The disk or a quota is full.
        StateDamaged: Anything else that keeps files from being read or written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"cannot {doing}", why=str(error.strerror)) from error
        raise StateDamaged(f"cannot {doing}", why=str(error.strerror or error)) from error


class Slots:
    """The slots of every model below one folder.

    Args:
        folder: Holds a folder a model.
        table: Keeps what each slot holds.
        free_bytes: Tells the free space of a folder's disk.
    """

    def __init__(self, folder: Path, table: SlotTable, free_bytes: Callable[[Path], int] = disk_free_bytes) -> None:
        self.folder = folder
        self._table = table
        self._free_bytes = free_bytes
        with disk_errors("make the slots' folder"):
            folder.mkdir(parents=True, exist_ok=True)
            fsync_folder(folder.parent)

    def models(self) -> list[str]:
        """Return the models that have slots."""
        with disk_errors("look at the slots"):
            return sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())

    def stored(self, model: str) -> list[SlotFile]:
        """Return the bundles that a model's slots hold."""
        return [file for file in (self._file(model, name) for name in _NAMES) if file]

    def active(self, model: str) -> SlotFile | None:
        """Return the bundle that the link names; None when there is none, or the journal knows nothing of it."""
        name = self.active_name(model)
        return self._file(model, name) if name else None

    def previous(self, model: str) -> SlotFile | None:
        """Return the committed bundle in the other slot."""
        name = self.active_name(model)
        found = self._file(model, _other(name)) if name else None
        return found if found and found.committed else None

    def installed(self) -> Iterator[Path]:
        """Yield the file of every slot of every model."""
        for model in self.models():
            for name in _NAMES:
                if file := self._file(model, name):
                    yield file.path

    def holding(self, model: str, digest: str) -> SlotFile | None:
        """Return the slot that holds a bundle."""
        return next((file for file in self.stored(model) if file.digest == digest), None)

    def other(self, model: str, digest: str) -> SlotFile | None:
        """Return the committed bundle in the slot that does not hold ``digest``."""
        return next((file for file in self.stored(model) if file.digest != digest and file.committed), None)

    def leftovers(self, model: str) -> list[str]:
        """Return the slots that hold a file of which nothing is known any more, such as a damaged bundle.

        Raises:
            StateDamaged: The disk or the journal fails.
        """
        active = self.active_name(model)
        unknown = [name for name in _NAMES if name != active and self._table.slot(model, name) is None]
        return [name for name in unknown if (self.folder / model / name / "bundle").exists()]

    def check_room(self, needed_bytes: int, reserve_bytes: int, already_bytes: int = 0) -> None:
        """Refuse to begin what would not fit: what is needed and not there already, the reserve on top.

        Raises:
            NoSpace: There is less.
        """
        with disk_errors("ask for the free disk space"):
            free = self._free_bytes(self.folder)
        needed = max(0, needed_bytes - already_bytes) + reserve_bytes
        if free < needed:
            raise NoSpace("not enough disk space for the bundle", why=f"{free} bytes are free, {needed} are needed")

    def stage(self, model: str, row: SlotRow, source: Path) -> SlotFile:
        """Move a whole bundle file into the free slot, durably. May run again after any interruption.

        Args:
            model: The model.
            row: What the file holds; its ``name`` is replaced by the free slot's.
            source: The file, on the same disk; it is gone afterwards.

        Raises:
            MalformedBundle: The file is what was signed, but no sound bundle of this model and release.
            DigestMismatch: The file is gone, or not what was signed.
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
        """
        name = self._free_name(model, row.digest)
        place = self.folder / model / name
        with disk_errors(f"stage release {row.release} of {model}"):
            held = place / "bundle"
            if not _is_in_place(held, row, source):
                attachments.prepare(check_file(source, model, row), place)
                self._table.clear_slot(model, name)
                source.replace(held)
                attachments.adopt(place)
            self._settle(place)
            bundle = check_file(held, model, row)
            if attachments.find_wrong(bundle, place):
                self._rewrite(bundle, place)
        self._table.put_slot(model, replace(row, name=name))
        with disk_errors("tidy the staging folder"):
            source.unlink(missing_ok=True)
        return SlotFile(name, held, row.digest, row.length_bytes, row.release, row.committed)

    def activate(self, model: str, name: str) -> None:
        """Let the link name a slot, atomically and durably.

        Raises:
            NoSpace: The disk is full.
            StateDamaged: The disk fails.
        """
        place = self.folder / model
        with disk_errors(f"flip the active slot of {model}"):
            if self.active_name(model) != name:
                fresh = place / f".{_LINK}.new"
                fresh.unlink(missing_ok=True)
                fresh.symlink_to(name)
                fresh.replace(place / _LINK)
            fsync_folder(place)  # also when it was flipped before: a kill or a failing disk may have come in between

    def deactivate(self, model: str) -> None:
        """Remove the link, durably."""
        place = self.folder / model
        if place.is_dir():
            with disk_errors(f"deactivate {model}"):
                (place / _LINK).unlink(missing_ok=True)
                fsync_folder(place)

    def commit(self, model: str, digest: str) -> None:
        """Mark a bundle as one that passed its probation."""
        file = self.holding(model, digest)
        if file and not file.committed:
            row = SlotRow(file.name, file.digest, file.length_bytes, file.release, committed=True)
            self._table.put_slot(model, row)

    def discredit(self, model: str, digest: str) -> None:
        """Take the mark back: it is nothing to go back to any more."""
        file = self.holding(model, digest)
        if file and file.committed:
            row = SlotRow(file.name, file.digest, file.length_bytes, file.release, committed=False)
            self._table.put_slot(model, row)

    def sound(self, model: str) -> tuple[SlotFile | None, str]:
        """Return the active bundle if it is whole, else fall back to the previous one if that is.

        Returns:
            The bundle that is active now, its files mended, and what was wrong on disk, or empty.

        Raises:
            StateDamaged: The link cannot be flipped.
        """
        active = self.active(model)
        if active is None:
            return None, ""
        problem = damage(active, model)
        if not problem:
            return active, self.mend(active)
        fallback = self.previous(model)
        if fallback is None or damage(fallback, model):
            self.deactivate(model)
            self._table.clear_slot(model, active.name)
            return None, problem
        self.mend(fallback)
        self.activate(model, fallback.name)
        self._table.clear_slot(
            model, active.name
        )  # not before: a link to a slot of which nothing is known is no way back
        return fallback, problem

    def mend(self, file: SlotFile) -> str:
        """Write a whole bundle's files again when they are not as they were installed; return what was wrong, or empty.

        A disk that does not take them keeps no model from answering: that is part of what was wrong.
        """
        place = file.path.parent
        problem = ""
        try:
            with disk_errors(f"write the files of release {file.release} again"):
                bundle = Bundle.open(file.path)
                problem = attachments.find_wrong(bundle, place)
                if problem:
                    self._rewrite(bundle, place)
        except DsopsError as error:
            problem = f"{problem}; {error}" if problem else str(error)
        if problem:
            logger.warning("the files of release %d: %s", file.release, problem)
        return problem

    def files(self, model: str) -> Path | None:
        """Return the folder where programs find the files of the active bundle, or None when it brings none."""
        folder = self.folder / model / _LINK / attachments.FOLDER
        return folder if folder.is_dir() else None

    def forget(self, model: str, name: str) -> None:
        """Give up what a slot holds that is not active.

        Raises:
            StateDamaged: The journal fails.
        """
        assert name != self.active_name(model), "the active slot is never given up"
        self._table.clear_slot(model, name)

    def empty(self, model: str, name: str) -> None:
        """Give up what a slot holds that is not active, and free its room.

        Raises:
            StateDamaged: The disk or the journal fails.
        """
        self.forget(model, name)
        with disk_errors(f"empty slot {name} of {model}"):
            shutil.rmtree(self.folder / model / name)
            fsync_folder(self.folder / model)

    def remove(self, model: str) -> None:
        """Give up everything that a model's slots hold, and their folder.

        Raises:
            StateDamaged: The disk or the journal fails.
        """
        self.deactivate(model)
        for name in _NAMES:
            self.forget(model, name)
        with disk_errors(f"remove the slots of {model}"):
            if (self.folder / model).is_dir():
                shutil.rmtree(self.folder / model)
                fsync_folder(self.folder)

    def sweep(self) -> None:
        """Remove what an interrupted step left behind."""
        with disk_errors("tidy the slots"):
            for model in self.models():
                for leftover in (self.folder / model).glob(".*.new"):
                    leftover.unlink(missing_ok=True)
                for name in _NAMES:
                    attachments.sweep(self.folder / model / name)

    def active_name(self, model: str) -> str:
        """Return the slot that the link names; empty when there is no link.

        Raises:
            StateDamaged: The disk fails: that must not look as if nothing were active, for then it would be replaced.
        """
        with disk_errors(f"read which slot of {model} is active"):
            try:
                name = (self.folder / model / _LINK).readlink().name
            except (FileNotFoundError, NotADirectoryError):
                return ""
        return name if name in _NAMES else ""

    def _free_name(self, model: str, digest: str) -> str:
        """Return the slot for a bundle: not the active one; without one, where it is already, or nothing is lost."""
        active = self.active_name(model)
        if active:
            return _other(active)
        stored = {file.name: file for file in self.stored(model)}
        held = [name for name, file in stored.items() if file.digest == digest]
        loose = [name for name in _NAMES if name not in stored or not stored[name].committed]
        return next(iter([*held, *loose]), _NAMES[0])

    def _file(self, model: str, name: str) -> SlotFile | None:
        row = self._table.slot(model, name)
        if row is None:
            return None
        path = self.folder / model / name / "bundle"
        return SlotFile(name, path, row.digest, row.length_bytes, row.release, row.committed)

    def _rewrite(self, bundle: Bundle, place: Path) -> None:
        attachments.prepare(bundle, place)
        attachments.adopt(place)

    def _settle(self, place: Path) -> None:
        held = place / "bundle"
        with held.open("rb") as file:
            fsync_or_discard(held, file.fileno())
        for folder in (place, place.parent, self.folder):
            fsync_folder(folder)


def check_file(path: Path, model: str, row: SlotRow) -> Bundle:
    """Check a bundle file against what was signed, byte by byte, and open it.

    Raises:
        MalformedBundle: It is what was signed, but no sound bundle of this model and release.
        DigestMismatch: It is absent, or not what was signed.
    """
    try:
        found = file_digest(path)
    except OSError as error:
        raise DigestMismatch(f"cannot read {path.name}", why=str(error.strerror)) from error
    if found != (row.digest, row.length_bytes):
        raise DigestMismatch(f"{path.name} is not what was signed", why=f"{found[1]} bytes, digest {found[0][:16]}")
    bundle = Bundle.open(path)
    try:
        bundle.verify()
    except DigestMismatch as error:
        raise MalformedBundle("the signed bundle contradicts its own manifest", why=str(error)) from error
    if (bundle.manifest.model, bundle.manifest.release) != (model_of(model), row.release):
        raise MalformedBundle(
            "the bundle's manifest names another release",
            why=f"{bundle.manifest.model} {bundle.manifest.release}, signed as {model_of(model)} {row.release}",
        )
    return bundle


def damage(file: SlotFile, model: str) -> str:
    """Return what is wrong with an installed bundle, or empty.

    Raises:
        StateDamaged: Whether it is whole cannot be told, for the host lacks what it takes to read any file, or lets us
            open none.
    """
    row = SlotRow(file.name, file.digest, file.length_bytes, file.release, file.committed)
    problem = ""
    for _ in range(_READS):
        try:
            check_file(file.path, model, row)
        except BundleError as error:
            problem, cause = str(error), error.__cause__
            if not isinstance(cause, OSError):
                break
            if cause.errno in _OF_THE_HOST or (cause.errno in _BARRED and not _opens_another(file.path)):
                raise StateDamaged(f"cannot read release {file.release} of {model}", why=str(cause.strerror)) from error
        else:
            return ""
    return problem


def _opens_another(path: Path) -> bool:
    """Return whether a bundle in any other slot, of any model, can be opened."""
    return any(_opens(other) for other in path.parents[2].glob("*/[ab]/bundle") if other != path)


def _opens(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True


def _is_in_place(held: Path, row: SlotRow, source: Path) -> bool:
    """Return whether a slot holds a bundle already; what cannot be read there is replaced, if there is a source."""
    try:
        return held.is_file() and file_digest(held) == (row.digest, row.length_bytes)
    except OSError:
        if source.is_file():
            return False
        raise


def _other(name: str) -> str:
    return "b" if name == "a" else "a"
