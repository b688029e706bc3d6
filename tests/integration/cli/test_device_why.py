"""`dsops device why` and `dsops device events` against a running controller."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration


def test_each_release_is_answered_by_the_devices_rules(
    dsops: Callable[..., Any], make_bundle: Callable[..., Path], site: Any
) -> None:
    for release in (1, 2):
        bundle = make_bundle(release)
        assert dsops("bundle", "sign", bundle, "--keys", site.keys).code == 0
        assert dsops("bundle", "push", bundle).code == 0
    assert dsops("device", "token", "cam-9").code == 0
    place = ("--keys", site.keys, "--server", site.server)
    assert dsops("policy", "set", "digits", "--floor", "2", *place).code == 0
    rows = dsops("device", "why", "cam-9", "digits", "-o", "json").result
    assert [(row["release"], row["accepted"]) for row in rows] == [(1, False), (2, False)]
    broken = {row["release"]: [rule["code"] for rule in row["rules"] if rule["ok"] is False] for row in rows}
    pending = ["enrolment.device_barred", "bundle.wrong_hardware"]  # it has not said yet what it is
    assert broken == {1: [*pending, "trust.below_floor"], 2: pending}
    shown = dsops("device", "why", "cam-9", "digits/1")
    assert "release 1, the floor is 2" in shown.out
    assert "the device is pending" in shown.out
    assert "Traceback" not in shown.err


def test_what_is_not_there_is_said(dsops: Callable[..., Any]) -> None:
    assert dsops("device", "token", "cam-8").code == 0
    for words, code in (
        (("why", "nobody"), 5),
        (("why", "cam-8", "digits/77"), 5),
        (("why", "cam-8", "digits/x"), 2),
        (("why", "cam-8", "none"), 5),
    ):
        refused = dsops("device", *words, "-o", "json")
        assert (refused.code, refused.out) == (code, ""), words
    assert dsops("device", "events", "cam-8", "-o", "json").result == []
