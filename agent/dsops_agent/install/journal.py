"""The journal: what the agent knows across restarts and power cuts, in one SQLite file (WAL, synchronous=FULL).

Measured on ext4 and XFS: WAL with FULL loses no acknowledged commit at a power cut; with NORMAL it loses nearly all.
A file that is damaged for certain is put aside at the start, and a new one begins with what the keepsake holds
(:mod:`dsops_agent.install.keepsake`).
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dsops.bundle import sha256_hex
from dsops.directive import Challenger, DesiredSlot, Directive, TransferLimits
from dsops.errors import JournalLost, NoSpace, StateDamaged
from dsops.files import fsync_folder, make_private
from dsops.messages import Problem
from dsops.states import Install
from dsops_agent.claimed import claim, fill_log, is_damaged, is_full, make_durable
from dsops_agent.install import schema
from dsops_agent.install.budget import Today
from dsops_agent.install.journal_loss import LOST, begin_anew
from dsops_agent.install.keepsake import SEQ, KeepsakeFile, read_rows
from dsops_agent.install.places import desired_places, model_of

logger = logging.getLogger(__name__)

_FILE_BYTES = 256 * 1024
_LOG_BYTES = 768 * 1024
"""Claimed at the start: a device whose disk is full can still say so, and refuse or roll back."""
_DIRECTIVE, _LIMITS, _TODAY = "directive digest", "transfer limits", "transfer today"
_COUNTER, _REPORT = "report", "report digest"
_CHALLENGERS = "challengers"
_SAMPLES = "samples"
Cell = str | int


@dataclass(frozen=True)
class InstallRow:
    """One model's newest install.

    Attributes:
        model: The place: the model, or its challenger's (:mod:`dsops_agent.install.places`).
        state: Where it is.
        seq: The directive that asked for it.
        wanted: The bundle, and for which deployment.
        index: Digest of the chunk index; empty until the trust rules named it.
        attempt: How often the present step was begun again.
        problem: What stands, or stood, in its way.
        needs: Digest of the document that says what the bundle needs; empty until the trust rules named it.
    """

    model: str
    state: Install
    seq: int
    wanted: DesiredSlot
    index: str = ""
    attempt: int = 0
    problem: Problem | None = None
    needs: str = ""


@dataclass(frozen=True)
class SlotRow:
    """What one slot holds; ``committed`` once it passed its probation."""

    name: str
    digest: str
    length_bytes: int
    release: int
    committed: bool


@dataclass(frozen=True)
class RefusalRow:
    """A message of the controller that was refused, and that nothing better has followed yet.

    Attributes:
        source: What kind of message, and of which model.
        digest: SHA-256 of what was refused, where that tells one refusal from the next.
        problem: Why.
    """

    source: str
    digest: str
    problem: Problem


@dataclass(frozen=True)
class QuarantineRow:
    """A bundle that is never tried again, and why."""

    model: str
    digest: str
    problem: Problem


@dataclass(frozen=True)
class Tidings:
    """One event on its way to the event sink."""

    kind: str
    model: str
    release: int
    digest: str
    code: str
    message: str


def _no_hook(_moment: str) -> None:
    return


class Journal:
    """The device's journal. Every method that changes something is durable when it returns; thread-safe.

    Args:
        path: The database file; it is made when it is absent, and anew when it is damaged.
        hook: Called with ``"before"`` and ``"after"`` around each commit; for instrumentation.

    Raises:
        JournalLost: The file is damaged, and so is the keepsake, or there is none.
        NoSpace: It is damaged, and the disk has no room for a new one.
        StateDamaged: The file cannot be used, or is of a newer version.
    """

    def __init__(self, path: Path, hook: Callable[[str], None] = _no_hook) -> None:
        self._hook = hook
        self._lock = threading.RLock()
        self._depth = 0
        self._kept = KeepsakeFile(path.with_name(f"{path.stem}.keepsake"))
        try:
            self._open(path)
        except JournalLost:
            self._open_again(path)

    def _open_again(self, path: Path) -> None:
        """Open a file that seemed to be damaged; one that is at the second look, too, is begun anew."""
        try:
            self._open(path)
        except JournalLost as loss:
            begin_anew(path, self._kept, loss)
            self._open(path)

    def _open(self, path: Path) -> None:
        make_private(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError as error:
            raise _explained(error, path.name) from error
        try:
            self._prepare(path)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path) -> None:
        try:
            version = schema.version_of(self._db)
            if version > schema.VERSION:
                raise StateDamaged(f"{path.name} was written by a newer agent", hint="install the newer agent again")
            if version == 0 and self._kept.exists():
                raise JournalLost(f"{path.name} is lost", why="it is absent or empty")
            make_durable(self._db, _LOG_BYTES)
            (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise JournalLost(f"{path.name} is damaged", why=str(found).splitlines()[-1])
            schema.bring_up(self._db)
            self._claim(path)
            self._kept.sweep()
            self._kept.keep(read_rows(self._db))
            for folder in (path.parent, path.parent.parent):  # or the file is durable, and its name is not
                fsync_folder(folder)
        except sqlite3.DatabaseError as error:
            if is_damaged(error):
                raise JournalLost(f"{path.name} is damaged", why=str(error)) from error
            raise _explained(error, path.name) from error
        except OSError as error:
            raise StateDamaged(f"cannot use {path.name}", why=error.strerror or str(error)) from error

    def _claim(self, path: Path) -> None:
        """Take the file's room at once. A disk that is full already keeps nobody from reading what is installed."""
        try:
            claim(self._db, path, _FILE_BYTES)
            fill_log(self._db, _LOG_BYTES)
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise
            logger.warning("the disk has no room for the journal to grow; nothing is installed until there is some")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside durable together, or nothing of it. Nested transactions join the outer one.

        Raises:
            NoSpace: The disk is full; nothing changed.
            StateDamaged: The file cannot be read or written; nothing changed.
        """
        with self._lock:
            self._depth += 1
            try:
                if self._depth > 1:
                    yield
                else:
                    with self._outermost():
                        yield
            finally:
                self._depth -= 1

    @contextmanager
    def _outermost(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._kept.keep(read_rows(self._db))
            self._hook("before")
            self._db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise _explained(error, "the journal") from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._hook("after")

    def _write(self, sql: str, values: Sequence[Cell]) -> None:
        with self.transaction():
            self._db.execute(sql, values)

    def _rows(self, sql: str, values: Sequence[Cell] = ()) -> list[tuple[Cell, ...]]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise _explained(error, "the journal") from error

    # Counters and settings.

    def next(self, name: str) -> int:
        """Return a number that was never returned for ``name`` before: 1, 2, ..."""
        sql = "INSERT INTO counter VALUES (?, 1) ON CONFLICT DO UPDATE SET value = value + 1"
        with self.transaction():
            self._write(sql, (name,))
            return int(self._rows("SELECT value FROM counter WHERE name = ?", (name,))[0][0])

    def get(self, name: str, default: str = "") -> str:
        """Return a setting's text."""
        found = self._rows("SELECT value FROM setting WHERE name = ?", (name,))
        return str(found[0][0]) if found else default

    def set(self, name: str, value: str) -> None:
        """Keep a setting's text."""
        self._write("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))

    def loss(self) -> str:
        """Return why the journal was begun anew, as long as no directive was accepted since; else empty."""
        return self.get(LOST)

    # Directives.

    def seq(self) -> int:
        """Return the ``seq`` of the newest accepted directive; 0 before the first."""
        found = self._rows("SELECT value FROM counter WHERE name = ?", (SEQ,))
        return int(found[0][0]) if found else 0

    def directive_digest(self) -> str:
        """Return the digest of the newest accepted directive's payload; empty before the first."""
        return self.get(_DIRECTIVE)

    def accept(self, directive: Directive, digest: str) -> None:
        """Keep a directive's ``seq``, which never falls, its digest, limits, what it wants and the keys that it brings.

        What it does not name is not desired any more; what it pardons leaves the quarantine.
        """
        with self.transaction():
            sql = "INSERT INTO counter VALUES (?, ?) ON CONFLICT DO UPDATE SET value = max(value, excluded.value)"
            self._write(sql, (SEQ, directive.seq))
            self.set(_DIRECTIVE, digest)
            self.set(_LIMITS, directive.transfer.model_dump_json())
            self._write("DELETE FROM setting WHERE name = ?", (LOST,))
            self._write("DELETE FROM desired", ())
            for place, slot in desired_places(directive).items():
                row = (place, directive.seq, slot.model_dump_json())
                self._write("INSERT INTO desired VALUES (?, ?, ?)", row)
                if slot.content_key is not None:
                    self._keep_key(slot.sha256, slot.content_key)
            kept = {model: challenger.model_dump(mode="json") for model, challenger in directive.challengers.items()}
            self.set(_CHALLENGERS, json.dumps(kept))
            self.set(_SAMPLES, json.dumps([request.model_dump(mode="json") for request in directive.samples]))
            self.pardon(directive.pardoned, f"by directive {directive.seq}")

    def desired(self) -> dict[str, tuple[int, DesiredSlot]]:
        """Return what the newest directive wants in each place that it names, with its ``seq``."""
        rows = self._rows("SELECT model, seq, slot FROM desired ORDER BY model")
        return {str(m): (int(s), DesiredSlot.model_validate_json(str(j))) for m, s, j in rows}

    def challengers(self) -> dict[str, Challenger]:
        """Return the challengers that the newest directive wants, by model."""
        kept = json.loads(self.get(_CHALLENGERS, "{}"))
        return {str(model): Challenger.model_validate_json(json.dumps(text)) for model, text in kept.items()}

    def sample_requests(self) -> list[dict[str, object]]:
        """Return the requests for samples of the newest accepted directive, as the inference process takes them."""
        found: list[dict[str, object]] = json.loads(self.get(_SAMPLES, "[]"))
        return found

    # The transfer budget; see dsops_agent.install.spending.

    def told_limits(self) -> TransferLimits:
        """Return how much may be fetched by the newest accepted directive."""
        return TransferLimits.model_validate_json(self.get(_LIMITS, "{}"))

    def today(self) -> Today:
        """Return what was fetched on the newest day on which anything was."""
        return Today(**json.loads(self.get(_TODAY, "{}")))

    def keep_today(self, today: Today) -> None:
        """Keep what was fetched."""
        self.set(_TODAY, json.dumps(asdict(today)))

    # Reports.

    def next_report(self, compose: Callable[[int, str | None], bytes]) -> bytes:
        """Return the payload that ``compose`` makes of the next number and the digest of the payload before.

        Number and digest are durable when it returns, so that no number is ever used for two reports.
        """
        with self.transaction():
            payload = compose(self.next(_COUNTER), self.get(_REPORT) or None)
            self.set(_REPORT, sha256_hex(payload))
        return payload

    # Installs.

    def put_install(self, row: InstallRow) -> None:
        """Keep a model's install."""
        problem = row.problem or Problem(code="")
        values = (row.model, row.state.value, row.seq, row.wanted.model_dump_json(), row.index, row.needs)
        sql = "INSERT OR REPLACE INTO install VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._write(sql, (*values, row.attempt, problem.code, problem.message))

    def install(self, model: str) -> InstallRow | None:
        """Return a model's newest install."""
        return self.installs().get(model)

    def installs(self) -> dict[str, InstallRow]:
        """Return every model's newest install."""
        return {str(row[0]): _install(row) for row in self._rows("SELECT * FROM install ORDER BY model")}

    def forget_install(self, model: str) -> None:
        """Forget a model's newest install."""
        self._write("DELETE FROM install WHERE model = ?", (model,))

    # Slots.

    def put_slot(self, model: str, row: SlotRow) -> None:
        """Keep what a slot holds."""
        values = (model, row.name, row.digest, row.length_bytes, row.release, int(row.committed))
        self._write("INSERT OR REPLACE INTO slot VALUES (?, ?, ?, ?, ?, ?)", values)

    def clear_slot(self, model: str, name: str) -> None:
        """Keep that a slot holds nothing of worth."""
        self._write("DELETE FROM slot WHERE model = ? AND name = ?", (model, name))

    def slot(self, model: str, name: str) -> SlotRow | None:
        """Return what a slot holds."""
        found = self._rows("SELECT * FROM slot WHERE model = ? AND name = ?", (model, name))
        return _slot(found[0]) if found else None

    # Keys of sealed bundles; see dsops_agent.install.content_keys.

    def _keep_key(self, digest: str, wrapped: str) -> None:
        sql = "INSERT INTO content_key VALUES (?, '', ?) ON CONFLICT DO UPDATE SET newest = excluded.newest"
        self._write(sql, (digest, wrapped))

    def wrapped_keys(self, digest: str) -> tuple[str, ...]:
        """Return the key that opened the bundle, if one did, then the newest that came, if it is another."""
        found = self._rows("SELECT opened, newest FROM content_key WHERE digest = ?", (digest,))
        return tuple(dict.fromkeys(str(key) for row in found for key in row if key))

    def key_opened(self, digest: str, wrapped: str) -> None:
        """Keep that a key opened its bundle."""
        if not self._rows("SELECT 1 FROM content_key WHERE digest = ? AND opened = ?", (digest, wrapped)):
            self._write("UPDATE content_key SET opened = ? WHERE digest = ?", (wrapped, digest))

    def forget_keys(self) -> None:
        """Forget the keys of bundles that no slot holds and nobody wants."""
        held = {str(row[0]) for row in self._rows("SELECT digest FROM slot")}
        wanted = {slot.sha256 for _, slot in self.desired().values()}
        wanted |= {row.wanted.sha256 for row in self.installs().values()}
        for (digest,) in self._rows("SELECT digest FROM content_key"):
            if digest not in held | wanted:
                self._write("DELETE FROM content_key WHERE digest = ?", (digest,))

    # Quarantine and events.

    def quarantine(self, model: str, digest: str, problem: Problem) -> None:
        """Keep that a bundle of a model, whatever place it was for, must not be tried again, and why."""
        sql = "INSERT OR IGNORE INTO quarantine (model, digest, code, message) VALUES (?, ?, ?, ?)"
        self._write(sql, (model_of(model), digest, problem.code, problem.message))

    def quarantine_list(self) -> list[QuarantineRow]:
        """Return the bundles that must not be tried again, newest first."""
        rows = self._rows("SELECT model, digest, code, message FROM quarantine ORDER BY id DESC")
        return [QuarantineRow(str(m), str(d), Problem(code=str(c), message=str(t))) for m, d, c, t in rows]

    def pardon(self, digests: Iterable[str], how: str) -> None:
        """Take bundles out of quarantine, and forget how their installs ended: who is still wanted is tried again.

        Args:
            digests: The bundles; one that is not in quarantine is passed over.
            how: By whom, for the event that tells of it.
        """
        pardoned = frozenset(digests)
        with self.transaction():
            for row in self.quarantine_list() if pardoned else ():
                if row.digest in pardoned:
                    self._write("DELETE FROM quarantine WHERE digest = ?", (row.digest,))
                    self._reopen(row)
                    self.tell(Tidings("pardoned", row.model, 0, row.digest, row.problem.code, how))

    def _reopen(self, pardoned: QuarantineRow) -> None:
        ended = (Install.REJECTED, Install.ROLLED_BACK, Install.FAILED)
        for row in self.installs().values():
            if row.wanted.sha256 == pardoned.digest and row.state in ended:
                self.put_install(replace(row, state=Install.IDLE, seq=0, attempt=0, problem=None))

    def quarantined(self, digest: str) -> Problem | None:
        """Return why a digest must not be tried again."""
        found = self._rows("SELECT code, message FROM quarantine WHERE digest = ?", (digest,))
        return Problem(code=str(found[0][0]), message=str(found[0][1])) if found else None

    def put_refusal(self, row: RefusalRow, most: int) -> None:
        """Keep a refusal in place of the one before of the same source; of all sources only the ``most`` newest."""
        sql = "INSERT OR REPLACE INTO refusal (source, digest, code, message) VALUES (?, ?, ?, ?)"
        with self.transaction():
            self._write(sql, (row.source, row.digest, row.problem.code, row.problem.message))
            sql = "DELETE FROM refusal WHERE id NOT IN (SELECT id FROM refusal ORDER BY id DESC LIMIT ?)"
            self._write(sql, (most,))

    def clear_refusal(self, source: str) -> None:
        """Keep that a message of this source was accepted."""
        self._write("DELETE FROM refusal WHERE source = ?", (source,))

    def refusals(self) -> list[RefusalRow]:
        """Return the refusals that stand, oldest first."""
        rows = self._rows("SELECT source, digest, code, message FROM refusal ORDER BY id")
        return [RefusalRow(str(s), str(d), Problem(code=str(c), message=str(m))) for s, d, c, m in rows]

    def tell(self, tidings: Tidings) -> None:
        """Keep an event until the sink has it."""
        t = tidings
        sql = "INSERT INTO outbox (kind, model, release, digest, code, message) VALUES (?, ?, ?, ?, ?, ?)"
        self._write(sql, (t.kind, t.model, t.release, t.digest, t.code, t.message))

    def untold(self) -> list[tuple[int, Tidings]]:
        """Return the events that the sink does not have yet, oldest first, with their numbers."""
        rows = self._rows("SELECT * FROM outbox ORDER BY id")
        return [(int(r[0]), Tidings(str(r[1]), str(r[2]), int(r[3]), str(r[4]), str(r[5]), str(r[6]))) for r in rows]

    def told(self, number: int) -> None:
        """Forget an event that the sink has."""
        self._write("DELETE FROM outbox WHERE id = ?", (number,))


def _install(row: tuple[Cell, ...]) -> InstallRow:
    model, state, seq, slot, index, needs, attempt, code, message = row
    wanted = DesiredSlot.model_validate_json(str(slot))
    problem = Problem(code=str(code), message=str(message)) if code else None
    return InstallRow(str(model), Install(str(state)), int(seq), wanted, str(index), int(attempt), problem, str(needs))


def _slot(row: tuple[Cell, ...]) -> SlotRow:
    _, name, digest, length_bytes, release, committed = row
    return SlotRow(str(name), str(digest), int(length_bytes), int(release), bool(committed))


def _explained(error: sqlite3.DatabaseError, name: str) -> NoSpace | StateDamaged:
    if is_full(error):
        return NoSpace(f"cannot write {name}", why=str(error))
    hint = "restart the agent: it begins a new journal" if is_damaged(error) else ""
    return StateDamaged(f"cannot use {name}", why=str(error), hint=hint)
