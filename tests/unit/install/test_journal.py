"""The journal: durable, whole or nothing, and refusing what is not one."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dsops.bundle import sha256_hex
from dsops.directive import DesiredSlot, Directive
from dsops.errors import StateDamaged
from dsops.messages import Problem
from dsops.states import Install
from dsops_agent.install.journal import InstallRow, Journal, RefusalRow, SlotRow, Tidings

WANTED = DesiredSlot(path="digits/1.int8.bundle", sha256="a" * 64, length_bytes=9, release=1, deployment="de-1")
ROW = InstallRow("digits", Install.FETCHING, 3, WANTED, "b" * 64, 2, Problem(code="device.no_space", message="full"))


def directive(seq: int, **slots: DesiredSlot) -> Directive:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Directive(fleet="north", device="cam-1", seq=seq, issued=now, expires=now + timedelta(days=1), slots=slots)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path)
    yield made
    made.close()


def reopened(journal: Journal, path: Path) -> Journal:
    journal.close()
    return Journal(path)


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.touch(mode=0o644)
    Journal(path).close()
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_everything_survives_a_restart(journal: Journal, path: Path) -> None:
    journal.set("boot", "7")
    journal.accept(directive(3, digits=WANTED), "e" * 64)
    journal.put_install(ROW)
    journal.put_slot("digits", SlotRow("a", "c" * 64, 10, 4, committed=True))
    journal.quarantine("digits", "d" * 64, Problem(code="bundle.golden_mismatch", message="no"))
    journal.tell(Tidings("refused", "digits", 1, "a" * 64, "bundle.untrusted", "no"))
    assert [journal.next("report") for _ in range(3)] == [1, 2, 3]
    again = reopened(journal, path)
    assert again.get("boot") == "7"
    assert again.get("absent", "x") == "x"
    assert again.seq() == 3
    assert again.directive_digest() == "e" * 64
    assert again.desired() == {"digits": (3, WANTED)}
    assert again.install("digits") == ROW
    assert again.slot("digits", "a") == SlotRow("a", "c" * 64, 10, 4, committed=True)
    assert again.slot("digits", "b") is None
    assert again.quarantined("d" * 64) == Problem(code="bundle.golden_mismatch", message="no")
    assert again.quarantined("e" * 64) is None
    assert again.next("report") == 4
    assert again.next("other") == 1
    number, tidings = again.untold()[0]
    assert tidings.kind == "refused"
    again.told(number)
    assert again.untold() == []
    again.close()


def test_commits_are_synced(journal: Journal, path: Path) -> None:
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_seq_never_falls(journal: Journal) -> None:
    journal.accept(directive(5), "5" * 64)
    journal.accept(directive(4), "4" * 64)
    assert journal.seq() == 5


def test_model_that_the_newest_directive_does_not_name_is_not_desired(journal: Journal) -> None:
    journal.accept(directive(1, digits=WANTED), "1" * 64)
    journal.accept(directive(2, words=WANTED), "2" * 64)
    assert journal.desired() == {"words": (2, WANTED)}


def test_install_without_problem(journal: Journal) -> None:
    journal.put_install(replace(ROW, problem=None))
    assert journal.installs() == {"digits": replace(ROW, problem=None)}


def test_first_reason_of_a_quarantine_stays(journal: Journal) -> None:
    journal.quarantine("digits", "d" * 64, Problem(code="first"))
    journal.quarantine("digits", "d" * 64, Problem(code="second"))
    assert journal.quarantined("d" * 64) == Problem(code="first")


def fail_after_two_writes(journal: Journal) -> None:
    with journal.transaction():
        journal.set("a", "1")
        journal.put_install(ROW)
        raise KeyboardInterrupt


def test_transaction_is_whole_or_nothing(journal: Journal) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_after_two_writes(journal)
    assert journal.get("a") == ""
    assert journal.install("digits") is None
    journal.set("a", "2")
    assert journal.get("a") == "2"


def test_hook_stands_before_and_after_each_outer_commit(path: Path) -> None:
    seen: list[str] = []
    journal = Journal(path, seen.append)
    with journal.transaction():
        journal.set("a", "1")
        journal.set("b", "2")
    assert seen == ["before", "after"]
    journal.close()


def test_nothing_is_kept_when_killed_before_the_commit(path: Path) -> None:
    def kill(moment: str) -> None:
        if moment == "before":
            raise KeyboardInterrupt

    journal = Journal(path, kill)
    with pytest.raises(KeyboardInterrupt):
        journal.set("a", "1")
    journal.close()
    assert Journal(path).get("a") == ""


def test_file_that_is_no_journal_is_told(path: Path) -> None:
    path.write_bytes(b"this is not a database, and long enough to tell" * 10)
    with pytest.raises(StateDamaged, match=r"journal\.db"):
        Journal(path)


def test_journal_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateDamaged, match=r"journal\.db"):
        Journal(tmp_path / "absent" / "journal.db")


def test_journal_of_a_newer_agent_is_refused(journal: Journal, path: Path) -> None:
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StateDamaged, match="newer agent"):
        Journal(path)


def test_journal_that_was_taken_away_is_told(journal: Journal) -> None:
    journal._db.execute("DROP TABLE setting")
    with pytest.raises(StateDamaged, match="journal"):
        journal.set("a", "1")


def test_room_is_claimed_at_once_and_commits_take_no_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    before = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    for _ in range(300):
        journal.next("report")
    after = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    journal.close()
    assert before.keys() == after.keys() == {"journal.db", "journal.db-wal", "journal.keepsake"}
    assert all(after[name] <= before[name] for name in ("journal.db", "journal.db-wal"))


def test_reports_are_a_chain_across_restarts(journal: Journal, path: Path) -> None:
    seen: list[tuple[int, str | None]] = []

    def compose(counter: int, previous: str | None) -> bytes:
        seen.append((counter, previous))
        return b"report %d" % counter

    assert [journal.next_report(compose) for _ in range(2)] == [b"report 1", b"report 2"]
    again = reopened(journal, path)
    assert again.next_report(compose) == b"report 3"
    assert seen == [(1, None), (2, sha256_hex(b"report 1")), (3, sha256_hex(b"report 2"))]
    again.close()


def test_a_report_that_cannot_be_composed_uses_no_number(journal: Journal) -> None:
    def fails(counter: int, previous: str | None) -> bytes:
        raise StateDamaged(f"no {counter} after {previous}")

    with pytest.raises(StateDamaged):
        journal.next_report(fails)
    assert journal.next_report(lambda counter, previous: f"{counter} {previous}".encode()) == b"1 None"


def test_a_refusal_stands_for_its_source_until_it_is_cleared(journal: Journal, path: Path) -> None:
    first = RefusalRow("directive", "a" * 64, Problem(code="trust.wrong_device", message="it is for cam-2"))
    pack = RefusalRow("pack digits", "", Problem(code="trust.metadata_expired", message="it expired"))
    second = RefusalRow("directive", "b" * 64, Problem(code="trust.wrong_fleet", message="it is of south"))
    for row in (first, pack, second):
        journal.put_refusal(row, 2)
    again = reopened(journal, path)
    assert again.refusals() == [pack, second]
    again.clear_refusal("directive")
    assert again.refusals() == [pack]
    for row in (first, RefusalRow("pack words", "", pack.problem)):
        again.put_refusal(row, 2)
    assert [row.source for row in again.refusals()] == ["directive", "pack words"]
    again.close()


OLD = Path(__file__).parent / "journals"
"""Dumps of files that agents of those ages wrote, all of version 1."""


def old_journal(path: Path, name: str) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.executescript((OLD / name).read_text())
    return path


@pytest.mark.parametrize("name", ["first.sql", "before_needs.sql"])
def test_journal_of_an_older_agent_is_brought_up(path: Path, name: str) -> None:
    for _ in range(2):  # and is of the new version from then on
        journal = Journal(old_journal(path, name) if not path.exists() else path)
        faces, digits = journal.installs()["faces"], journal.installs()["digits"]
        assert (faces.state, faces.wanted.release, faces.index, faces.needs) == (Install.COMMITTED, 4, "f" * 64, "")
        assert (digits.state, digits.attempt, digits.wanted) == (Install.RECEIVED, 0, WANTED)
        assert journal.desired() == {"digits": (3, WANTED)}
        assert journal.slot("faces", "a") == SlotRow("a", "c" * 64, 10, 4, committed=True)
        assert [(row.model, row.digest) for row in journal.quarantine_list()] == [("digits", "a" * 64)]
        assert len(journal.refusals()) == (name == "before_needs.sql")
        assert [tidings.model for _, tidings in journal.untold()] == ["digits"]
        journal.close()
    journal = Journal(path)
    assert journal.next("report") == 4
    journal.put_install(ROW)
    assert journal.install("digits") == ROW
    journal.close()


def test_journal_of_an_older_agent_stays_as_it_was_while_it_cannot_be_brought_up(path: Path) -> None:
    old_journal(path, "first.sql")
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE old (a)")  # in the way of the step, after a part of its work
        before = list(db.iterdump())
    with pytest.raises(StateDamaged):
        Journal(path)
    with closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before
        db.execute("DROP TABLE old")
    Journal(path).close()


def test_journal_of_this_schema_that_bears_the_old_number_is_kept(journal: Journal, path: Path) -> None:
    journal.put_install(ROW)
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=1")
    again = Journal(path)
    assert again.install("digits") == ROW
    again.close()


def test_few_pages_are_kept_in_memory(journal: Journal) -> None:
    assert journal._db.execute("pragma cache_size").fetchone() == (-128,)  # KiB; SQLite's own choice is 2000
