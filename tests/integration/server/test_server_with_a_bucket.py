"""``dsops server run`` with its lake in an object store."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from s3_server import S3, s3_server

from dsops.clock import SystemClock
from dsops_controller.client import Access, Client
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.testing import interval, received, telemetry_batch
from dsops_controller.db import migrate
from dsops_controller.db.database import Database
from dsops_controller.server.config import FILE

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture
def bucket(site: Any) -> Iterator[S3]:
    """Name a bucket in the server's configuration, and put a record before its first start."""
    with s3_server() as s3:
        s3.client.create_bucket(Bucket="fleet-data")
        path = site.folder / FILE
        options = ", ".join(f'"{name}" = "{value}"' for name, value in s3.options.items())
        text = path.read_text().replace("options = {}", f"options = {{{options}}}")
        path.write_text(text.replace('lake = "lake"', 'lake = "s3://fleet-data/lake"').replace("= 10.0", "= 0.2"))
        db = Database(f"sqlite:///{site.folder}/state.db")
        migrate.upgrade(db)
        inbox = Inbox(db, SystemClock())
        inbox.start()
        now_us = int(SystemClock().now().timestamp() * 1e6)
        inbox.put("cam-1", received(telemetry_batch(b"a" * 16, [1], [interval(now_us)])))
        inbox.stop()
        db.close()
        yield s3


def test_records_reach_the_bucket_and_the_server_answers_from_it(
    bucket: S3, server: Any, operator: Client, site: Any, eventually: Callable[..., None]
) -> None:
    def rows() -> int:
        return sum(row["rows"] for row in operator.store_tables() if row["table"] == "telemetry")

    eventually(lambda: rows() == 1, "the record is in the bucket")
    assert [row["count"] for row in operator.telemetry()] == [1]
    assert operator.check_store()["level"] == "info"
    assert {row["files_after"] for row in operator.tend_store("compact")} == {0, 1}
    server.kill()
    server.start()
    again = Client(Access.load(site.folder / "operator.toml"))
    assert [row["count"] for row in again.telemetry()] == [1]
    assert server.terminate() == 0
    again.close()
    keys = [item["Key"] for item in bucket.client.list_objects_v2(Bucket="fleet-data")["Contents"]]
    assert any(key.startswith("lake/telemetry/day=") for key in keys)
    assert not any((site.folder / "lake").iterdir())
