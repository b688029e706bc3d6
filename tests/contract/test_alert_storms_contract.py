"""Ten thousand devices in trouble make a few notices: each device is told once, at a pace, also by two controllers."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from alert_site import BOTH, Here, Site, settings
from hook_receiver import Receiver
from sqlalchemy import func, select

from dsops_controller.alerts.notices import NoticeState, Pace, spare_notices, wait_after
from dsops_controller.alerts.settings import AlertSettings, Kind
from dsops_controller.audit import Audit
from dsops_controller.db.alert_tables import alert_delivery

QUIET_S = 3600.0


def silence(receiver: Receiver, **more: Any) -> AlertSettings:
    return settings(receiver, kinds=(Kind.SILENT,), silent_s=QUIET_S, clear_s=0, **more)


def counts(receiver: Receiver) -> list[int]:
    return [event["data"]["count"] for event in receiver.told()]


def states(site: Site) -> dict[str, int]:
    column = alert_delivery.c
    with site.db.read() as connection:
        rows = connection.execute(select(column.state, func.count()).group_by(column.state))
        return {state: int(count) for state, count in rows}


@BOTH
def test_a_fleet_that_falls_silent_is_told_once_and_once_when_it_is_back(here: Here, receiver: Receiver) -> None:
    site = Site(here, silence(receiver, notices=10, named=3))
    site.beat(0, 1000)
    site.step()
    assert receiver.bodies == []
    site.clock.advance(QUIET_S + 1)
    for _ in range(3):
        site.step()
    (event,) = receiver.told()
    data = event["data"]
    assert (event["type"], event["subject"], data["count"], data["alert"]) == ("alert.opened", "silent", 1000, "")
    assert data["evidence"] == {"devices": ["cam-00000", "cam-00001", "cam-00002"]}
    assert data["summary"] == "1,000 alerts (silent): cam-00000, cam-00001, cam-00002 and 997 more"
    assert (site.alerts.counts()["silent"], states(site)) == (1000, {"delivered": 1000})
    site.beat(0, 1000)
    site.clock.advance(1)
    site.step()
    _, over = receiver.told()
    assert (over["type"], over["data"]["count"], over["data"]["resolved"]) == ("alert.resolved", 1000, over["time"])
    assert over["id"] != event["id"]
    site.close()


@BOTH
def test_what_comes_in_drops_is_gathered_at_the_pace_and_each_device_is_told_once(
    here: Here, receiver: Receiver
) -> None:
    site = Site(here, silence(receiver, notices=4, notices_every_s=60, named=1000))
    for number in range(40):  # three more at each look: 12 a minute
        site.beat(3 * number, 3 * number + 3)
        site.clock.advance(15)
    site.clock.advance(QUIET_S - 40 * 15)
    for _ in range(44):
        site.clock.advance(15)
        site.step()
    found = receiver.told()
    assert len(found) <= 4 + 44 * 15 / 60 + 1
    named = [name for one in found for name in one["data"]["evidence"].get("devices", [one["data"]["device"]])]
    assert sorted(named) == [f"cam-{number:05d}" for number in range(120)]
    assert (counts(receiver)[0], sum(counts(receiver))) == (1, 120)  # the first ones come singly
    site.close()


@BOTH
def test_a_notice_of_many_that_was_not_taken_is_the_same_when_it_comes_again(here: Here, receiver: Receiver) -> None:
    receiver.answers = [(503, {})]
    site = Site(here, silence(receiver, notices=2))
    site.beat(0, 50)
    site.clock.advance(5)
    site.beat(50, 80)
    site.clock.advance(QUIET_S - 4)
    site.step()  # fifty are silent
    site.clock.advance(wait_after(1, 0.5) + 5)
    site.step()  # eighty
    first, again, other = receiver.told()
    assert (first, first["data"]["count"], other["data"]["count"]) == (again, 50, 30)
    assert states(site) == {"delivered": 80}
    site.close()


@BOTH
def test_what_was_given_up_of_many_is_told_again_by_itself(here: Here, receiver: Receiver) -> None:
    receiver.answers = [(400, {})]
    site = Site(here, silence(receiver, notices=2))
    site.beat(0, 20)
    site.clock.advance(QUIET_S + 1)
    site.step()
    assert states(site) == {"dead": 20}
    one = site.alerts.list()[0]
    site.alerts.retry(one.id)
    site.watch.hand_over()
    assert receiver.told()[1]["data"]["device"] == one.device
    assert site.alerts.get(one.id).notices[0].state is NoticeState.DELIVERED
    assert states(site) == {"dead": 19, "delivered": 1}
    site.close()


@BOTH
def test_everything_that_was_given_up_is_told_again_at_the_pace_of_new_notices(here: Here, receiver: Receiver) -> None:
    """As after an evening on which the receiver was down: in two notices of many, and not in forty."""
    receiver.answers = [(400, {}), (400, {})]
    kinds = (Kind.SILENT, Kind.DRIFT)
    site = Site(here, settings(receiver, kinds=kinds, silent_s=QUIET_S, clear_s=0, notices=2))
    site.beat(0, 20)
    site.clock.advance(QUIET_S + 1)
    site.step()
    site.put("cam-1", site.report("drift"))
    site.step()
    assert states(site) == {"dead": 21}
    assert site.alerts.retry_all("other") == 0
    assert site.alerts.retry_all("ops", "operator") == 21
    assert states(site) == {"pending": 21}
    site.clock.advance(600)
    site.watch.hand_over()
    assert states(site) == {"delivered": 21}
    told = receiver.told()[2:]
    assert len(told) == 2
    assert sorted(one["data"].get("count", 1) for one in told) == [1, 20]
    assert site.alerts.retry_all() == 0
    assert [row.detail for row in Audit(site.db, site.clock).list(subject="ops")] == ["21 notices"]
    site.close()


@BOTH
def test_a_storm_of_one_rule_does_not_hold_another_back(here: Here, receiver: Receiver) -> None:
    site = Site(here, settings(receiver, silent_s=QUIET_S, notices=1))
    site.beat(0, 30)
    site.clock.advance(QUIET_S + 1)
    site.step()
    site.beat(30, 60)
    site.clock.advance(1)
    site.put("cam-1", site.report("drift", model="digits"))
    site.put("cam-1", site.report("drift", model="words"))
    site.step()
    kinds = [(event["data"]["kind"], event["data"]["model"]) for event in receiver.told()]
    assert sorted(kinds) == [("drift", "digits"), ("drift", "words"), ("silent", "")]
    site.close()


@BOTH
def test_two_controllers_tell_of_each_device_once(here: Here, receiver: Receiver) -> None:
    first = Site(here, silence(receiver, notices=5, named=1000))
    second = Site(here, silence(receiver, notices=5, named=1000), first.clock)
    for round_number in range(6):
        first.beat(50 * round_number, 50 * round_number + 50)
        first.clock.advance(QUIET_S + 1)
        threads = [threading.Thread(target=site.step) for site in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    first.step()
    named: list[str] = []
    for event in receiver.told():
        named += event["data"]["evidence"].get("devices", [event["data"]["device"]])
    assert sorted(named) == [f"cam-{number:05d}" for number in range(300)]
    assert (first.alerts.counts()["silent"], states(first)) == (300, {"delivered": 300})
    first.close()
    second.close()


@pytest.mark.slow
@BOTH
def test_ten_thousand_devices_are_one_notice(here: Here, receiver: Receiver) -> None:
    site = Site(here, silence(receiver))
    site.beat(0, 10_000)
    site.clock.advance(QUIET_S + 1)
    site.step()
    site.step()
    assert counts(receiver) == [10_000]
    assert len(receiver.bodies[0]) < 2000
    assert states(site) == {"delivered": 10_000}
    site.close()


def test_spare_notices_come_back_with_time_up_to_the_burst() -> None:
    pace = Pace(burst=10, every_s=60.0, named=1)
    assert spare_notices(pace, 0.0, 59.0) < 1.0 <= spare_notices(pace, 0.0, 60.0)
    assert spare_notices(pace, 4.0, timedelta(days=1).total_seconds()) == 10.0
    assert spare_notices(pace, 4.0, -5.0) == 4.0  # a clock that was set back
