"""The packaged revisions give exactly the schema that the tables declare."""

import sqlite3
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from dsops.errors import StateDamaged
from dsops_controller.db import alert_tables, tables
from dsops_controller.db.database import Database
from dsops_controller.db.migrate import newest_revision, revision, upgrade

pytestmark = pytest.mark.integration


def schema(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%'").fetchall()
    return {name: " ".join(sql.split()) for name, sql in rows if name != "alembic_version"}


def test_revisions_and_tables_agree_to_the_letter(tmp_path: Path) -> None:
    migrated, declared = Database(f"sqlite:///{tmp_path}/a.db"), Database(f"sqlite:///{tmp_path}/b.db")
    upgrade(migrated)
    with declared.write() as connection:
        tables.metadata.create_all(connection)
    assert schema(tmp_path / "a.db") == schema(tmp_path / "b.db")
    assert alert_tables.alert_loss.name in tables.metadata.tables
    assert set(schema(tmp_path / "a.db")) >= set(tables.metadata.tables)
    with migrated.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path}/a b%20.db")
    assert revision(db) is None
    upgrade(db)
    upgrade(db)
    assert revision(db) == newest_revision() == "r0014"


def test_an_interrupted_upgrade_leaves_nothing(tmp_path: Path) -> None:
    """A table in the way makes the revision fail after it created others; all of it is undone."""
    db = Database(f"sqlite:///{tmp_path}/a.db")
    with db.write() as connection:
        connection.execute(text("CREATE TABLE inbox (x INTEGER)"))
    with pytest.raises(StateDamaged):
        upgrade(db)
    assert set(schema(tmp_path / "a.db")) == {"inbox"}
    assert revision(db) is None


def test_a_database_of_a_newer_version_is_refused(db: Database) -> None:
    with db.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'r9999'"))
    with pytest.raises(StateDamaged, match="another version"):
        upgrade(db)


def test_the_revisions_travel_with_the_package() -> None:
    folder = files("dsops_controller.db") / "migrations"
    for name in (
        "env.py",
        "script.py.mako",
        "versions/r0001_first.py",
        "versions/r0002_identity.py",
        "versions/r0003_delivery.py",
        "versions/r0004_withheld.py",
        "versions/r0005_challengers.py",
    ):
        assert (folder / name).is_file()
