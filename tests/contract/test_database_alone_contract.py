"""One at a time, whoever it is: what must not run twice at once runs once, over SQLite and over PostgreSQL."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alert_site import BOTH
from sqlalchemy import insert, select, update

from dsops.api.v1.telemetry_pb2 import Loss
from dsops.clock import ManualClock
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.streams import FORGOTTEN, MAX_STREAMS
from dsops_controller.dataops.testing import host, received, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.db.tables import inbox_name, metadata, stream, stream_loss

LOCK, OTHER = 7, 8
THREADS = 20
"""More than a pool has connections."""
NOW_US = 1_767_225_600_000_000


@pytest.fixture
def controllers(new_url: Callable[[Path], str], tmp_path: Path) -> Iterator[Sequence[Database]]:
    """The database as two controllers have it; of SQLite one process has it."""
    url = new_url(tmp_path)
    made = [Database(url) for _ in range(1 if url.startswith("sqlite") else 2)]
    with made[0].write() as connection:
        metadata.create_all(connection)
    yield made
    for db in made:
        db.close()


@BOTH
def test_many_threads_of_two_controllers_take_turns(controllers: Sequence[Database]) -> None:
    """Each reads a number in one transaction and writes the next in another: nothing is lost while it is alone."""
    with controllers[0].write() as connection:
        connection.execute(insert(inbox_name).values(name="0"))
    inside, most = 0, []

    def add(number: int) -> None:
        nonlocal inside
        db = controllers[number % len(controllers)]
        with db.alone(LOCK):
            inside += 1
            most.append(inside)
            with db.read() as connection:
                before = int(connection.execute(select(inbox_name.c.name)).scalar_one())
            with db.write() as connection:
                connection.execute(update(inbox_name).values(name=str(before + 1)))
            inside -= 1

    with ThreadPoolExecutor(THREADS * len(controllers)) as pool:
        list(pool.map(add, range(THREADS * len(controllers))))
    with controllers[0].read() as connection:
        assert connection.execute(select(inbox_name.c.name)).scalar_one() == str(THREADS * len(controllers))
    assert set(most) == {1}


@BOTH
def test_who_fails_leaves_it_to_the_next_and_another_number_is_free(controllers: Sequence[Database]) -> None:
    first, last = controllers[0], controllers[-1]
    with pytest.raises(ZeroDivisionError), first.alone(LOCK):
        raise ZeroDivisionError
    entered = threading.Event()

    def enter() -> None:
        with last.alone(LOCK):
            entered.set()

    with first.alone(LOCK):
        waiting = threading.Thread(target=enter)
        waiting.start()
        with last.alone(OTHER):
            assert not entered.wait(0.2), "two are alone"
    waiting.join(60)
    assert entered.is_set()


@BOTH
def test_counters_of_streams_that_a_device_left_behind_do_not_fall(controllers: Sequence[Database]) -> None:
    """Of a device whose batches reach both controllers; each stream has a record, of nine, and lost two."""
    inboxes = [Inbox(db, ManualClock()) for db in controllers]
    for box in inboxes:
        box.start()
    streams = MAX_STREAMS + 30
    losses = [Loss(kind="host", reason="full", count=2)]

    def upload(number: int) -> None:
        batch = telemetry_batch((number + 1).to_bytes(16, "big"), [9], [host(NOW_US)], produced=9, losses=losses)
        inboxes[number % len(inboxes)].put("cam-1", received(batch))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upload, range(streams)))
    upload(streams)  # whatever two at once left to each other
    for box in inboxes:
        box.stop()
    with controllers[0].read() as connection:
        rows = connection.execute(select(stream)).all()
        lost = sum(connection.execute(select(stream_loss.c.count)).scalars())
    assert len(rows) == MAX_STREAMS + 1
    assert [row.kind for row in rows if row.stream.startswith(FORGOTTEN)] == ["telemetry"]
    assert [sum(getattr(row, name) for row in rows) for name in ("stored", "produced", "dropped")] == [
        streams + 1, 9 * (streams + 1), 2 * (streams + 1),
    ]  # fmt: skip
    assert lost == 2 * (streams + 1)
