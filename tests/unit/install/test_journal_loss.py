"""A journal is begun anew only if it is lost for certain, and whole or not at all."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.directive import DesiredSlot
from dsops.errors import DsopsError, NoSpace
from dsops.messages import Problem
from dsops_agent.install import schema
from dsops_agent.install.journal import Journal, SlotRow
from dsops_agent.install.keepsake import KeepsakeFile, write_rows

SLOT = SlotRow("a", "c" * 64, 10, 4, committed=True)
WANTED = DesiredSlot(path="digits/1.int8.bundle", sha256="a" * 64, length_bytes=9, release=1, deployment="de-1")


class Killed(BaseException):
    """The process was killed."""


def make(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "journal.db"
    journal = Journal(path)
    journal.put_slot("digits", SLOT)
    journal.quarantine("digits", "d" * 64, Problem(code="bundle.golden_mismatch", message="no"))
    journal.close()
    return path


def check_restored(path: Path) -> None:
    journal = Journal(path)
    assert journal.slot("digits", "a") == SLOT
    assert journal.quarantined("d" * 64)
    assert [told.kind for _, told in journal.untold()] == ["journal_lost"]
    journal.close()
    assert {file.name for file in path.parent.iterdir()} == {"journal.db", "journal.db.damaged", "journal.keepsake"}


def kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Kill the process at its so-many-th change of the folder."""
    left = [number]

    def killing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return function(*arguments, **options)

        return call

    for name in ("replace", "unlink"):
        patch.setattr(Path, name, killing(getattr(Path, name)))
    patch.setattr(os, "fsync", killing(os.fsync))
    patch.setattr(schema, "bring_up", killing(schema.bring_up))
    patch.setattr("dsops_agent.install.journal_loss.write_rows", killing(write_rows))


def test_killed_anywhere_it_is_begun_anew_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = kills = 0
    while number == kills:
        number += 1
        path = make(tmp_path / str(number))
        path.write_bytes(b"spoiled" * 1000)
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                Journal(path).close()
            except Killed:
                kills += 1
        check_restored(path)
    assert kills > 8


@pytest.mark.parametrize(
    "code",
    [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM],
)
def test_what_may_pass_gives_no_journal_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = make(tmp_path / "device")

    def fail(_db: sqlite3.Connection) -> int:
        error = sqlite3.OperationalError("the disk fails")
        error.sqlite_errorcode = code
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(schema, "version_of", fail)
        with pytest.raises(DsopsError, match="the disk fails"):
            Journal(path)
    check_untouched(path)


def test_damage_that_is_gone_at_the_second_look_gives_no_journal_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, version_of, faults = make(tmp_path / "device"), schema.version_of, [sqlite3.SQLITE_CORRUPT]

    def fail_once(db: sqlite3.Connection) -> int:
        if faults:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = faults.pop()
            raise error
        return version_of(db)

    with monkeypatch.context() as patch:
        patch.setattr(schema, "version_of", fail_once)
        Journal(path).close()
    assert not faults
    check_untouched(path)


def test_a_journal_that_somebody_else_has_open_is_not_given_up(tmp_path: Path) -> None:
    path = make(tmp_path / "device")
    other = Journal(path)
    with pytest.raises(DsopsError, match="locked"):
        Journal(path)
    other.close()
    check_untouched(path)


def check_untouched(path: Path) -> None:
    journal = Journal(path)
    assert journal.slot("digits", "a") == SLOT
    assert not journal.untold()
    assert not journal.loss()
    journal.close()
    assert {file.name for file in path.parent.iterdir()} == {"journal.db", "journal.keepsake"}


def test_a_disk_that_does_not_take_the_keepsake_keeps_nothing_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "device")
    journal = Journal(path)

    def fail(_path: Path, _data: bytes) -> None:
        raise NoSpace("cannot write journal.keepsake", why="No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dsops_agent.install.keepsake.write_secret", fail)
        journal.quarantine("digits", "e" * 64, Problem(code="bundle.invalid_model", message="no"))
    kept = KeepsakeFile(path.with_name("journal.keepsake"))
    assert len(kept.read().quarantine) == 1
    journal.set("anything", "else")
    assert len(kept.read().quarantine) == 2, "it is made good with the next change"
    journal.close()


def test_a_damaged_keepsake_is_written_again(tmp_path: Path) -> None:
    path = make(tmp_path / "device")
    kept = path.with_name("journal.keepsake")
    before = kept.read_bytes()
    kept.write_bytes(b"spoiled")
    leftover = path.with_name(".journal.keepsake.1.tmp")
    leftover.touch()
    Journal(path).close()
    assert not leftover.exists(), "a kill left it behind"
    assert kept.read_bytes() == before
