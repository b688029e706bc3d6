"""Alerts of a real store, told to real receivers: one a cause while it lasts, never lost, over when it is over.

Over SQLite, and over PostgreSQL where its programs are.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from alert_site import BOTH, Here, Site, settings
from hook_receiver import Receiver

from dsops.errors import Conflict, NotFound
from dsops_controller.alerts.notices import AlertState, Ending, NoticeState, wait_after
from dsops_controller.alerts.settings import Kind
from dsops_controller.dataops.drift.standing import STALE_AFTER
from dsops_controller.dataops.testing import DIGEST, heartbeat, manifest
from dsops_controller.db.tables import audit, bundle, label, labelled_sample
from dsops_controller.db.times import to_ms


@BOTH
def test_a_cause_is_told_once_while_it_lasts_and_once_when_it_is_over(here: Here, receiver: Receiver) -> None:
    site = Site(here, settings(receiver, clear_s=120))
    site.put("cam-1", site.report("drift", 9.0))
    for _ in range(5):
        site.step()
        site.clock.advance(30)
    (event,) = receiver.told()
    assert (event["specversion"], event["type"], event["source"], event["subject"]) == (
        "1.0", "alert.opened", "/dsops/north", "cam-1",
    )  # fmt: skip
    assert (event["data"]["kind"], event["data"]["model"], event["data"]["resolved"]) == ("drift", "digits", None)
    assert event["data"]["evidence"]["release"] == 1
    site.put("cam-1", site.report("ok"))
    site.step()
    assert len(receiver.bodies) == 1  # it may come back at once
    site.clock.advance(121)
    site.step()
    opened, resolved = receiver.told()
    assert (resolved["type"], resolved["data"]["alert"]) == ("alert.resolved", opened["data"]["alert"])
    assert resolved["id"] != opened["id"]
    assert site.open_now() == []
    site.put("cam-1", site.report("drift", 9.0))
    site.step()
    assert receiver.told()[2]["data"]["alert"] != opened["data"]["alert"]
    with site.db.read() as connection:
        trail = [row.action for row in connection.execute(audit.select().order_by(audit.c.id))]
    assert trail == ["alert.opened", "alert.resolved", "alert.opened"]
    site.close()


@BOTH
def test_a_cause_that_comes_and_goes_within_the_pause_stays_one_alert(here: Here) -> None:
    site = Site(here, settings(clear_s=300))
    for number in range(6):
        site.put("cam-1", site.report("drift" if number % 2 == 0 else "ok"))
        site.watch.look()
        site.clock.advance(100)
    assert len(site.alerts.list()) == 1
    site.close()


@BOTH
def test_an_alert_says_that_its_device_is_silent_and_ends_when_it_is_unheard_of(here: Here, receiver: Receiver) -> None:
    site = Site(here, settings(receiver, silent_s=600, clear_s=60))
    site.put("cam-1", site.report("drift"))
    site.step()
    assert "no report" not in site.alerts.list()[0].summary
    site.clock.advance(601)
    site.step()
    (silent,) = site.alerts.list(only_open=True)
    assert (silent.summary, silent.ended) == (
        "digits on cam-1 has drifted; no report since 2026-01-01 12:00:00Z",
        None,
    )
    site.clock.advance(STALE_AFTER.total_seconds())
    site.step()
    assert [one.ended for one in site.alerts.list()] == [Ending.UNHEARD]
    ended = receiver.told()[-1]["data"]
    assert (ended["ended"], ended["summary"]) == ("unheard", silent.summary)
    site.put("cam-1", site.report("drift"))
    site.step()
    assert site.open_now() == [("drift", "digits", "cam-1")]  # it is heard of again
    site.close()


@BOTH
def test_a_fleet_alert_ends_when_nobody_reports_of_the_model(here: Here) -> None:
    site = Site(here, settings(kinds=(Kind.FLEET_DRIFT,), clear_s=0))
    for number in range(3):
        site.put(f"cam-{number}", site.report("drift", 9.0))
    site.watch.look()
    assert site.open_now() == [("fleet-drift", "digits", "")]
    site.clock.advance(STALE_AFTER.total_seconds() + 1)
    site.watch.look()
    assert [one.ended for one in site.alerts.list()] == [Ending.UNHEARD]
    site.close()


@BOTH
def test_alerts_about_a_device_that_left_end_with_that_reason(here: Here, receiver: Receiver) -> None:
    site = Site(here, settings(receiver, clear_s=0))
    site.put("cam-1", site.report("drift", skew="skew"), dropped=5)
    site.put("cam-2", site.report("drift"))
    site.step()
    assert len(site.open_now()) == 4
    site.refuse("cam-1")
    site.put("cam-2", site.report("ok"))
    site.clock.advance(1)
    site.step()
    assert sorted((one.device, one.kind, one.ended) for one in site.alerts.list()) == [
        ("cam-1", Kind.DRIFT, Ending.LEFT),
        ("cam-1", Kind.LOSSES, Ending.LEFT),
        ("cam-1", Kind.SKEW, Ending.LEFT),
        ("cam-2", Kind.DRIFT, Ending.OVER),
    ]
    ends = [one["data"]["ended"] for one in receiver.told() if one["type"] == "alert.resolved"]
    assert sorted(ends) == ["left", "left", "left", "over"]
    with site.db.read() as connection:
        told = connection.execute(audit.select().where(audit.c.action == "alert.resolved")).all()
    assert sorted((row.subject, row.detail.endswith("(left)")) for row in told) == [
        ("cam-1", True), ("cam-1", True), ("cam-1", True), ("cam-2", False),
    ]  # fmt: skip
    site.close()


@BOTH
def test_an_alert_of_a_kind_that_is_asked_for_no_more_ends_with_that_reason(here: Here) -> None:
    site = Site(here, settings(clear_s=0))
    site.put("cam-1", site.report("drift"))
    site.watch.look()
    site.close()
    other = Site(here, settings(kinds=(Kind.SILENT,), clear_s=0), site.clock)
    other.clock.advance(1)
    other.watch.look()
    assert [one.ended for one in other.alerts.list()] == [Ending.UNWATCHED]
    other.close()


@BOTH
def test_a_fleet_alert_needs_enough_devices_that_stand_the_correction(here: Here) -> None:
    site = Site(here, settings(kinds=(Kind.FLEET_DRIFT,), fleet_devices=3))
    for number in range(20):
        site.put(f"cam-{number}", site.report("drift" if number < 2 else "ok", 9.0 if number < 2 else 0.1))
    site.watch.look()
    assert site.open_now() == []
    site.put("cam-2", site.report("ok", 9.0))
    site.watch.look()
    (alert,) = site.alerts.list()
    assert site.open_now() == [("fleet-drift", "digits", "")]
    assert sorted(alert.evidence["named"]) == ["cam-0", "cam-1", "cam-2"]
    site.close()
    strict = Site(here, settings(kinds=(Kind.FLEET_DRIFT,), fleet_share=0.2, clear_s=0), site.clock)
    strict.clock.advance(1)
    strict.watch.look()
    assert strict.open_now() == []  # three of twenty are no fifth
    strict.close()


@BOTH
def test_skew_losses_and_silence_are_told(here: Here) -> None:
    site = Site(here, settings(silent_s=600, losses_s=900, clear_s=0))
    site.accept("cam-2")
    now_us = to_ms(site.clock.now()) * 1000
    site.put("cam-1", site.report(skew="skew"), dropped=5)
    site.put("cam-2", heartbeat(now_us))
    site.put("stranger", heartbeat(now_us), site.report(state="drift", skew="skew"))
    site.refuse("stranger")
    site.watch.look()
    assert site.open_now() == [("losses", "", "cam-1"), ("skew", "digits", "cam-1")]
    site.clock.advance(800)
    site.put("cam-1", site.report(skew="ok"), dropped=7)
    site.watch.look()
    assert site.open_now() == [("losses", "", "cam-1"), ("silent", "", "cam-2")]
    (lost,) = site.alerts.list(kind=Kind.LOSSES)
    assert (lost.evidence["dropped"], site.alerts.counts()["silent"]) == (7, 1)
    site.put("cam-2", heartbeat(now_us))
    site.clock.advance(901)
    site.watch.look()
    assert ("losses", "", "cam-1") not in site.open_now()
    site.close()


@BOTH
def test_a_device_that_reports_seldom_is_not_silent_between_two_heartbeats(here: Here) -> None:
    site = Site(here, settings(kinds=(Kind.SILENT,), silent_s=10))
    site.accept("cam-1")
    site.put("cam-1", heartbeat(to_ms(site.clock.now()) * 1000))  # every 30 s, it says
    site.clock.advance(90)
    site.watch.look()
    assert site.open_now() == []
    site.clock.advance(1)
    site.watch.look()
    assert site.open_now() == [("silent", "", "cam-1")]
    site.close()


@BOTH
def test_a_model_that_errs_more_than_it_did_is_told(here: Here) -> None:
    site = Site(here, settings(kinds=(Kind.AUDITED_ERROR,)))
    text = manifest(1, accuracy=0.98).encode().decode()
    row = {"sha256": "0" * 64, "model": "animals", "release": 1, "variant": "int8", "path": "p", "length_bytes": 1}
    with site.db.write() as connection:
        connection.execute(bundle.insert().values(**row, index_sha256="a" * 64, pushed_ms=1, manifest=text))
        for number in range(120):
            name = f"cam-1/{'a' * 32}/{number}"
            facts = {"device": "cam-1", "model": "animals", "release": 1, "digest": DIGEST, "reason": "random"}
            connection.execute(labelled_sample.insert().values(sample=name, predicted="cat", time_ms=number, **facts))
            said = {"labeller": "ann", "label": "dog" if number >= 40 and number % 2 else "cat", "set_version": 1}
            connection.execute(label.insert().values(sample=name, time_ms=number, stored_ms=1, **said))
    site.watch.look()
    (alert,) = site.alerts.list()
    assert (alert.kind, alert.model, alert.evidence["wrong"]) == (Kind.AUDITED_ERROR, "animals", 40)
    assert set(alert.evidence["labels_wrong"]) == {"dog"}
    site.close()


@BOTH
def test_a_receiver_that_is_down_is_asked_later_and_later_then_given_up(here: Here, receiver: Receiver) -> None:
    receiver.answers = [(503, {}), (429, {"Retry-After": "90"}), (500, {})]
    site = Site(here, settings(receiver, attempts=3))
    site.put("cam-1", site.report("drift"))
    site.step()
    site.watch.hand_over()
    assert len(receiver.bodies) == 1  # not before its time
    site.clock.advance(wait_after(1, 0.5) + 0.01)
    site.watch.hand_over()
    site.clock.advance(89)
    site.watch.hand_over()
    assert len(receiver.bodies) == 2
    site.clock.advance(2)
    site.watch.hand_over()
    (notice,) = site.alerts.list()[0].notices
    assert (notice.state, notice.attempts, "500" in notice.error) == (NoticeState.DEAD, 3, True)
    assert len(set(receiver.bodies)) == 1  # the same notice each time
    site.alerts.retry(site.alerts.list()[0].id[:8])
    site.watch.hand_over()
    assert site.alerts.list()[0].notices[0].state is NoticeState.DELIVERED
    site.close()


def test_waits_double_and_spread() -> None:
    assert [wait_after(attempts, 1.0) for attempts in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert wait_after(60, 1.0) == 3600.0
    assert wait_after(3, 0.0) == 10.0


@BOTH
def test_what_is_refused_for_good_is_not_asked_again(here: Here, receiver: Receiver) -> None:
    receiver.answers = [(400, {})]
    site = Site(here, settings(receiver))
    site.put("cam-1", site.report("drift"))
    site.step()
    assert site.alerts.list()[0].notices[0].state is NoticeState.DEAD
    site.close()


@BOTH
def test_the_end_is_not_told_before_the_beginning(here: Here, receiver: Receiver) -> None:
    receiver.answers = [(503, {})]
    site = Site(here, settings(receiver, clear_s=0))
    site.put("cam-1", site.report("drift"))
    site.step()
    site.put("cam-1", site.report("ok"))
    site.clock.advance(1)
    site.step()
    assert [one["type"] for one in receiver.told()] == ["alert.opened"]
    site.clock.advance(60)
    site.watch.hand_over()
    assert [one["type"] for one in receiver.told()] == ["alert.opened", "alert.opened", "alert.resolved"]
    site.close()


@BOTH
def test_two_controllers_open_one_alert(here: Here) -> None:
    site, other = Site(here, settings()), Site(here, settings())
    site.put("cam-1", site.report("drift"))
    site.watch.look()
    other.watch.look()
    assert len(site.alerts.list()) == 1
    site.close()
    other.close()


@BOTH
def test_old_alerts_are_forgotten_and_ids_are_found_by_their_beginning(here: Here) -> None:
    site = Site(here, settings(clear_s=0, keep_days=1))
    for name in ("cam-1", "cam-2"):
        site.put(name, site.report("drift"))
    site.watch.look()
    with pytest.raises(NotFound):
        site.alerts.get("zz")
    site.put("cam-1", site.report("ok"))
    site.clock.advance(1)
    site.watch.look()
    assert {one.state for one in site.alerts.list()} == {AlertState.OPEN, AlertState.RESOLVED}
    site.clock.advance(timedelta(days=2).total_seconds())
    site.watch.look()
    (left,) = site.alerts.list()
    assert left.device == "cam-2"
    site.close()


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from alert_site import Here, Site, settings
from hook_receiver import Receiver
made = Receiver(url=sys.argv[2])
site = Site(Here(Path(sys.argv[1]), sys.argv[4]), settings(made))
site.step()
"""


@BOTH
def test_who_is_killed_while_it_tells_leaves_it_to_the_next(here: Here, receiver: Receiver) -> None:
    site = Site(here, settings(receiver))
    site.put("cam-1", site.report("drift"))
    receiver.open.clear()
    command = [sys.executable, "-c", KILLED, str(here.folder), receiver.url, str(Path(__file__).parent), here.url]
    process = subprocess.Popen(command)
    assert receiver.came.wait(60)
    process.kill()
    process.wait(20)
    receiver.open.set()
    site.step()
    assert len(receiver.bodies) == 1  # its claim lasts: it might still be at it
    site.clock.advance(60)
    site.step()
    first, second = receiver.told()
    assert first["id"] == second["id"]
    assert site.alerts.list()[0].notices[0].state is NoticeState.DELIVERED
    site.close()


@BOTH
def test_a_beginning_of_several_ids_is_not_taken(here: Here) -> None:
    site = Site(here, settings())
    for number in range(20):
        site.put(f"cam-{number}", site.report("drift"))
    site.watch.look()
    firsts = [one.id[0] for one in site.alerts.list()]
    twice = next(letter for letter in firsts if firsts.count(letter) > 1)
    with pytest.raises(Conflict):
        site.alerts.get(twice)
    site.close()
