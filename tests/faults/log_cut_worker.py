"""A process that cuts the log of a table, and waits for a line after each step, whose name it says before.

log_cut_worker.py FOLDER
"""

import sys
from pathlib import Path

from lake_worker import say

from dsops.clock import SystemClock
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.log_cutting import LogCutter
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.db.database import Database

TABLE = LakeTable.TELEMETRY


def wait(step: str) -> None:
    """Say what was done, and go on when told."""
    say(step)
    sys.stdin.readline()


def main(folder: Path) -> None:
    db = Database(f"sqlite:///{folder}/state.db")
    lake = Lake(db, folder / "lake", wait)
    with lake.tending():
        LogCutter(lake, SystemClock(), wait).cut(TABLE, Pins(lake, SystemClock()).versions(TABLE))
    db.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
