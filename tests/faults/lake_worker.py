"""A store's process over a folder: commits, flushes and tends as told, and says what it has acknowledged.

    lake_worker.py FOLDER

Each line on its standard output is the number of a record that was acknowledged, or the name of a step that was done.
"""

import sys
from pathlib import Path

from dsops.clock import ManualClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.dataops.testing import host, interval, received, sample, sample_batch, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import metadata

NOW_US = 1_767_225_600_000_000
OLD_US = 45 * 86_400_000_000
EVERY = 4


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def opened(folder: Path) -> tuple[Database, Lake]:
    """Return database and lake of a folder after a start, as the server makes it."""
    db = Database(f"sqlite:///{folder}/state.db")
    with db.write() as connection:
        metadata.create_all(connection)
    lake = Lake(db, folder / "lake", say)
    lake.open()
    return db, lake


def main(folder: Path) -> None:
    db, lake = opened(folder)
    inbox = Inbox(db, ManualClock())
    inbox.start()
    upkeep = Upkeep(lake, Pins(lake, ManualClock()), ManualClock(), watch=say)
    number = 0
    while True:
        number += 1
        first = 10 * number
        old, new = interval(NOW_US - OLD_US), interval(NOW_US + number)
        batch = telemetry_batch(b"a" * 16, [first, first + 1, first + 2], [old, new, host(NOW_US)])
        inbox.put("cam-1", received(batch))
        inbox.put("cam-1", received(sample_batch(b"b" * 16, [first], [sample(NOW_US, [1.0] * 99)])))
        say(str(first))
        lake.flush()
        if number % EVERY == 0:
            upkeep.retain()
            upkeep.compact()
            upkeep.vacuum(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
