"""The lines of docs/how-to/store.md that open the lake in other tools, run as they stand there."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from s3_server import KEYS, s3_server

from dsops.clock import ManualClock, SystemClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.places import Folder, Place, place_of
from dsops_controller.dataops.testing import interval, received, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import metadata

PAGE = Path(__file__).parents[2] / "docs/how-to/store.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
LOCAL = [block for block in BLOCKS if "s3://" not in block]
REMOTE = [block for block in BLOCKS if "s3://" in block]
NOW_US = 1_767_225_600_000_000
ANSWERS = 7


def fill(folder: Path, place: Place) -> None:
    db = Database(f"sqlite:///{folder}/state.db")
    with db.write() as connection:
        metadata.create_all(connection)
    lake = Lake(db, place)
    lake.open()
    inbox = Inbox(db, ManualClock())
    inbox.start()
    for seq, answers in ((1, 3), (2, 4)):
        batch = telemetry_batch(b"a" * 16, [seq], [interval(NOW_US + seq, [100.0] * answers, release=2)])
        inbox.put("cam-1", received(batch))
        lake.flush()
    inbox.stop()
    db.close()


def output(block: str, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_three_tools_open_the_lake_with_three_lines_each() -> None:
    assert [len(block.split("\n")) - block.count("\n\n") - 1 for block in BLOCKS] == [3, 3, 3, 3]
    assert [tool for tool in ("duckdb", "polars", "pandas") if any(tool in block for block in LOCAL)] == [
        "duckdb",
        "polars",
        "pandas",
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("server")
    fill(made, Folder(made / "lake"))
    return made


@pytest.mark.parametrize("block", LOCAL)
def test_the_lines_answer(folder: Path, block: str) -> None:
    shown = output(block, folder)
    assert re.search(rf"digits\W+2\W+{ANSWERS}\b", shown), shown


@pytest.mark.slow
@pytest.mark.integration
def test_the_lines_answer_in_an_object_store(tmp_path: Path) -> None:
    with s3_server() as s3:
        s3.client.create_bucket(Bucket="fleet-data")
        fill(tmp_path, place_of("s3://fleet-data/lake", tmp_path, s3.options, SystemClock()))
        names = {name.upper(): value for name, value in KEYS.items()}
        environment = {**names, "AWS_ENDPOINT_URL": s3.url, "AWS_ALLOW_HTTP": "true"}
        for block in REMOTE:
            assert re.search(rf"digits\W+2\W+{ANSWERS}\b", output(block, tmp_path, environment))
