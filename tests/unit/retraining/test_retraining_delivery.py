"""Requests are handed over to real receivers, again until they are taken, and never lost."""

import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hook_receiver import SECRET, Receiver, receiving

from dsops.betting import Bet
from dsops.clock import ManualClock
from dsops.errors import Conflict, NotFound
from dsops_controller.dataops.datasets.datasets import Datasets
from dsops_controller.dataops.drift.standing import save_reports
from dsops_controller.dataops.labels.labels import Labels
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.samples.sample_reading import SampleReader
from dsops_controller.dataops.store import LakeStore
from dsops_controller.dataops.testing import accept, drift_report, manifest
from dsops_controller.db.database import Database
from dsops_controller.db.tables import audit, bundle, metadata
from dsops_controller.retraining.adapters import Adapters
from dsops_controller.retraining.driver import Data, Retraining
from dsops_controller.retraining.requests import CLAIM_MARGIN, DeliveryState, RequestState, wait_after
from dsops_controller.retraining.settings import Cause, Command, Drop, RetrainingSettings, Webhook


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


class Desk:
    """Retraining over a database and a lake of its own."""

    def __init__(self, folder: Path, settings: RetrainingSettings, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.db = Database(f"sqlite:///{folder}/state.db")
        with self.db.write() as connection:
            metadata.create_all(connection)
        lake = Lake(self.db, folder / "lake")
        reader = SampleReader(self.db, LakeStore(self.db, lake))
        labels = Labels(self.db, reader.rows, self.clock)
        data = Data(self.db, Datasets(self.db, lake, reader, labels, self.clock), labels)
        self.retraining = Retraining("north", data, settings, Adapters(folder, self.clock).deliver, self.clock)
        self.requests = self.retraining.requests

    def push(self, release: int) -> None:
        """Store what a push leaves of a bundle, as far as retraining looks at it."""
        row = {"sha256": f"{release:064x}", "model": "animals", "release": release, "variant": "int8"}
        pushed_ms = round(self.clock.now().timestamp() * 1000)
        rest = {"path": f"p{release}", "length_bytes": 1, "index_sha256": "a" * 64, "pushed_ms": pushed_ms}
        text = manifest(release).encode().decode()
        with self.db.write() as connection:
            connection.execute(bundle.insert().values(**row, **rest, manifest=text))

    def report(self, log_e: dict[str, float], alarmed: set[str], release: int = 1) -> None:
        """Store what accepted devices report of their monitors."""
        with self.db.write() as connection:
            accept(connection, log_e)
            for device, value in log_e.items():
                report = drift_report(0, state="drift" if device in alarmed else "ok").drift
                report.model, report.log_e, report.release = "animals", value, release
                save_reports(connection, device, [report], round(self.clock.now().timestamp() * 1000))

    def trail(self) -> list[str]:
        with self.db.read() as connection:
            return [row.action for row in connection.execute(audit.select().order_by(audit.c.id))]


def settings(receiver: Receiver | None = None, **more: Any) -> RetrainingSettings:
    hooks = {} if receiver is None else {"ci": Webhook(url=receiver.url, secret_file="hook.secret")}
    return RetrainingSettings(webhook=hooks, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hook.secret").write_text(SECRET + "\n")
    return tmp_path


def test_a_request_is_a_signed_cloud_event(folder: Path, receiver: Receiver) -> None:
    desk = Desk(folder, settings(receiver))
    desk.push(3)
    made = desk.retraining.request("animals", note="after the move", actor="ann")
    desk.retraining.hand_over()
    event = receiver.told()[0]
    assert (event["specversion"], event["type"], event["id"], event["source"]) == (
        "1.0",
        "retrain.requested",
        made.id,
        "/dsops/north",
    )
    assert (event["subject"], event["data"]["release"], event["data"]["note"]) == ("animals", 3, "after the move")
    assert receiver.headers[0]["idempotency-key"] == made.id
    assert desk.requests.get(made.id[:8]).deliveries[0].state is DeliveryState.DELIVERED
    desk.retraining.hand_over()
    assert len(receiver.bodies) == 1
    assert desk.trail() == ["retraining.requested", "retraining.delivered"]


def test_a_receiver_that_is_down_is_asked_again_later_and_later(folder: Path, receiver: Receiver) -> None:
    receiver.answers = [(503, {}), (429, {"Retry-After": "90"}), (200, {})]
    desk = Desk(folder, settings(receiver))
    desk.push(1)
    made = desk.retraining.request("animals")
    desk.retraining.hand_over()
    desk.retraining.hand_over()
    assert len(receiver.bodies) == 1
    desk.clock.advance(30)
    desk.retraining.hand_over()
    desk.clock.advance(60)  # the second wait, but for what the receiver asked
    desk.retraining.hand_over()
    assert len(receiver.bodies) == 2
    desk.clock.advance(30)
    desk.retraining.hand_over()
    assert receiver.bodies[0] == receiver.bodies[2]
    (delivery,) = desk.requests.get(made.id).deliveries
    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 3)


def test_what_is_never_taken_is_kept_as_dead_and_can_be_tried_again(folder: Path, receiver: Receiver) -> None:
    receiver.answers = [(500, {})] * 3
    desk = Desk(folder, settings(receiver, attempts=3))
    desk.push(1)
    made = desk.retraining.request("animals")
    for _attempt in range(6):
        desk.retraining.hand_over()
        desk.clock.advance(3600)
    found = desk.requests.get(made.id)
    assert (found.state, found.deliveries[0].state, len(receiver.bodies)) == (
        RequestState.FAILED,
        DeliveryState.DEAD,
        3,
    )
    assert "answered 500" in found.deliveries[0].error
    desk.requests.retry(made.id)
    desk.retraining.hand_over()
    assert desk.requests.get(made.id).deliveries[0].state is DeliveryState.DELIVERED
    assert len(receiver.bodies) == 4


def test_a_refusal_is_not_repeated(folder: Path, receiver: Receiver) -> None:
    receiver.answers = [(403, {})]
    desk = Desk(folder, settings(receiver))
    desk.push(1)
    desk.retraining.request("animals")
    desk.retraining.hand_over()
    desk.clock.advance(86_400)
    desk.retraining.hand_over()
    assert len(receiver.bodies) == 1


def test_redirects_are_not_followed(folder: Path, receiver: Receiver) -> None:
    receiver.answers = [(307, {"Location": receiver.url})]
    desk = Desk(folder, settings(receiver))
    desk.push(1)
    desk.retraining.request("animals")
    desk.retraining.hand_over()
    assert len(receiver.bodies) == 1


def test_a_receiver_that_is_not_there_and_a_secret_that_is_too_short_wait(folder: Path, receiver: Receiver) -> None:
    (folder / "hook.secret").write_text("short")
    desk = Desk(folder, settings(receiver))
    desk.push(1)
    made = desk.retraining.request("animals")
    desk.retraining.hand_over()
    assert "fewer than 16" in desk.requests.get(made.id).deliveries[0].error
    assert receiver.bodies == []
    hooks = {"ci": Webhook(url="http://127.0.0.1:9/", secret_file="hook.secret")}
    (folder / "hook.secret").write_text(SECRET)
    again = Desk(folder, RetrainingSettings(webhook=hooks), desk.clock)
    desk.clock.advance(60)
    again.retraining.hand_over()
    (delivery,) = again.requests.get(made.id).deliveries
    assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 2)
    assert "no answer" in delivery.error


def test_a_program_gets_the_request_on_its_input(folder: Path) -> None:
    program = (
        "import os, sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read()); print(os.environ['DSOPS_RETRAINING'])"
    )
    command = Command(arguments=(sys.executable, "-c", program, "taken.json"))
    desk = Desk(folder, RetrainingSettings(command={"local": command}))
    desk.push(1)
    made = desk.retraining.request("animals")
    desk.retraining.hand_over()
    assert json.loads((folder / "taken.json").read_bytes())["id"] == made.id


@pytest.mark.parametrize(
    ("arguments", "timeout_s", "said"),
    [
        ((sys.executable, "-c", "import sys; sys.exit('no room')"), 60, "ended with 1: no room"),
        (("/no/such/program",), 60, "cannot run"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), 0.5, "did not end"),
    ],
)
def test_a_program_that_fails_is_run_again(
    folder: Path, arguments: tuple[str, ...], timeout_s: float, said: str
) -> None:
    command = Command(arguments=arguments, timeout_s=timeout_s)
    desk = Desk(folder, RetrainingSettings(command={"local": command}))
    desk.push(1)
    made = desk.retraining.request("animals")
    desk.retraining.hand_over()
    (delivery,) = desk.requests.get(made.id).deliveries
    assert (delivery.state, said in delivery.error) == (DeliveryState.PENDING, True), delivery.error


def test_a_file_is_dropped_once_whole(folder: Path) -> None:
    (folder / "drop").mkdir()
    desk = Desk(folder, RetrainingSettings(file={"airflow": Drop(folder="drop"), "none": Drop(folder="absent")}))
    desk.push(1)
    made = desk.retraining.request("animals")
    desk.retraining.hand_over()
    assert [path.name for path in (folder / "drop").iterdir()] == [f"{made.id}.json"]
    states = {one.adapter: one.state for one in desk.requests.get(made.id).deliveries}
    assert states == {"airflow": DeliveryState.DELIVERED, "none": DeliveryState.PENDING}


def test_who_is_killed_while_it_hands_over_leaves_it_to_the_next(folder: Path, receiver: Receiver) -> None:
    desk = Desk(folder, settings(receiver))
    desk.push(1)
    made = desk.retraining.request("animals")
    assert desk.requests.claim({"ci": 40.0}) == (made.id, "ci")  # claimed, and never tried
    assert desk.requests.claim({"ci": 40.0}) is None
    after = Desk(folder, settings(receiver), desk.clock)
    after.retraining.hand_over()
    assert receiver.bodies == []  # another may be at it
    desk.clock.advance(40)
    after.retraining.hand_over()
    assert receiver.bodies == []
    desk.clock.advance(CLAIM_MARGIN.total_seconds())
    after.retraining.hand_over()
    assert after.requests.get(made.id).deliveries[0].state is DeliveryState.DELIVERED


def test_an_adapter_that_was_taken_out_of_the_settings_is_given_up(folder: Path, receiver: Receiver) -> None:
    desk = Desk(folder, settings(receiver))
    desk.push(1)
    made = desk.retraining.request("animals")
    Desk(folder, settings(), desk.clock).retraining.hand_over()
    assert desk.requests.get(made.id).state is RequestState.FAILED


def test_the_same_request_is_one_and_another_waits_for_it(folder: Path) -> None:
    desk = Desk(folder, settings())
    with pytest.raises(NotFound):
        desk.retraining.request("animals")
    desk.push(1)
    made = desk.retraining.request("animals")
    assert desk.retraining.request("animals").id == made.id
    desk.clock.advance(1)
    desk.push(2)
    with pytest.raises(Conflict, match="open already"):
        desk.retraining.request("animals")
    desk.retraining.look()
    assert desk.requests.get(made.id).state is RequestState.ANSWERED
    assert desk.retraining.request("animals").id != made.id


def test_what_was_closed_is_asked_for_again_on_a_word(folder: Path, receiver: Receiver) -> None:
    desk = Desk(folder, settings(receiver, open_days=2))
    desk.push(1)
    made = desk.retraining.request("animals")
    desk.retraining.hand_over()
    desk.requests.close(made.id)
    with pytest.raises(Conflict, match="is closed"):
        desk.retraining.request("animals")
    desk.clock.advance(3 * 86_400)
    assert desk.requests.retry(made.id).state is RequestState.OPEN
    desk.retraining.look()  # open for no time yet
    desk.retraining.hand_over()
    assert (desk.requests.get(made.id).state, len(receiver.bodies)) == (RequestState.OPEN, 2)
    desk.push(2)
    desk.retraining.look()
    with pytest.raises(Conflict, match="is answered"):
        desk.requests.retry(made.id)


def watched(draw: random.Random, share: float, frames: int = 400) -> tuple[float, bool]:
    """Return the e-process of a device whose frames are one in two of a kind in the profile, and whether it alarmed."""
    bet, most = Bet(0.5), 0.0
    for _ in range(frames):
        most = max(most, bet.add(float(draw.random() < share)))
    return bet.log_wealth, most >= math.log(20)


def test_alarms_that_a_large_fleet_raises_by_chance_ask_for_nothing(folder: Path) -> None:
    draw = random.Random(1)
    fleet = {f"cam-{number}": watched(draw, 0.5) for number in range(300)}
    alarmed = {device for device, (_, alarm) in fleet.items() if alarm}
    desk = Desk(folder, settings(drift_share=0.01))
    assert len(alarmed) >= 3, "as many as ask when they have drifted"
    desk.push(1)
    desk.report({device: log_e for device, (log_e, _) in fleet.items()}, alarmed)
    desk.retraining.look()
    assert desk.requests.list() == []
    dim = {f"dim-{number}": watched(draw, 0.8)[0] for number in range(4)}
    desk.report(dim, set(dim))
    desk.retraining.look()
    (made,) = desk.requests.list()
    assert set(dim) <= set(made.evidence["named"])
    assert len(made.evidence["named"]) <= 5


def test_drift_that_was_not_heard_of_for_a_week_asks_for_nothing(folder: Path) -> None:
    desk = Desk(folder, settings())
    desk.push(1)
    desk.report({f"cam-{number}": 20.0 for number in range(3)}, set())
    desk.clock.advance(8 * 86_400)
    desk.report({"cam-9": 0.0}, set())
    desk.retraining.look()
    assert desk.requests.list() == []
    desk.report({f"cam-{number}": 20.0 for number in range(3)}, set())
    desk.retraining.look()
    assert [one.evidence["named"] for one in desk.requests.list()] == [["cam-0", "cam-1", "cam-2"]]


def test_drift_asks_by_itself_once_until_the_cool_down_is_over(folder: Path) -> None:
    desk = Desk(folder, settings(cooldown_h=24, open_days=20))
    desk.push(1)
    desk.report({f"cam-{number}": 20.0 for number in range(3)}, set())
    desk.retraining.look()
    desk.retraining.look()
    (made,) = desk.requests.list("animals")
    assert (made.cause, made.evidence["named"]) == (Cause.DRIFT, ["cam-0", "cam-1", "cam-2"])
    desk.requests.close(made.id)
    desk.clock.advance(3600)
    desk.push(2)
    desk.retraining.look()
    assert len(desk.requests.list()) == 1
    desk.clock.advance(24 * 3600)
    desk.retraining.look()
    assert len(desk.requests.list()) == 1, "the drift was that of the release before"
    desk.report({f"cam-{number}": 20.0 for number in range(3)}, set(), release=2)
    desk.retraining.look()
    assert len(desk.requests.list()) == 2
    desk.clock.advance(20 * 86_400)
    desk.retraining.look()
    assert desk.requests.list()[0].state is RequestState.EXPIRED


def test_waits_double_up_to_an_hour() -> None:
    assert [wait_after(n).total_seconds() for n in (1, 2, 3, 8, 9, 50)] == [30, 60, 120, 3600, 3600, 3600]
