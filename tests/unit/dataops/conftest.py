from collections.abc import Iterator
from pathlib import Path

import pytest

from dsops.clock import ManualClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.db.database import Database
from dsops_controller.db.tables import metadata


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/state.db")
    with database.write() as connection:
        metadata.create_all(connection)
    yield database
    database.close()


@pytest.fixture
def inbox(db: Database) -> Iterator[Inbox]:
    box = Inbox(db, ManualClock())
    box.start()
    yield box
    box.stop()
