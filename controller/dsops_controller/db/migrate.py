"""Brings the state database to the schema of this version: Alembic revisions, packaged with the program, offline."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from dsops.errors import StateDamaged
from dsops_controller.db.database import Database

_LOCK = 0x64736F70  # any number, the same in every controller


def upgrade(db: Database) -> None:
    """Apply every missing revision in one transaction: killed at any moment, the schema is the old or the new one.

    Several controllers may start at once over one PostgreSQL; one of them migrates, the others wait.

    Raises:
        StateDamaged: The database is of a newer version of dsops, or cannot be written.
        NoSpace: The disk is full.
    """
    with db.write() as connection:
        if not db.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
        config = _config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            why = f"{error}"[:200]
            hint = "start the newer dsops, or restore a backup of this version"
            raise StateDamaged("the state database is of another version of dsops", why=why, hint=hint) from error


def revision(db: Database) -> str | None:
    """Return the revision that the database has, or None if it has none yet."""
    with db.read() as connection:
        return _revision(connection)


def newest_revision() -> str | None:
    """Return the revision that this version of dsops needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))  # configparser's escape
    return config
