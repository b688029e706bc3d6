"""Budgets of sites, and the figures of what the broker keeps, by the command line against a controller."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.integration

Dsops = Callable[..., Any]


def test_a_site_gets_a_budget_is_listed_and_cleared(dsops: Dsops) -> None:
    made = dsops("site", "set", "plant-7", "--bytes-per-s", "1000", "-o", "json").result
    assert (made["name"], made["bytes_per_s"], made["bytes_per_day"], made["devices"]) == ("plant-7", 1000, 0, 0)
    assert "plant-7" in dsops("site", "list").out
    assert dsops("site", "clear", "plant-7").code == 0
    assert dsops("site", "list", "-o", "json").result == []
    gone = dsops("site", "clear", "plant-7", "-o", "json")
    assert (gone.code, gone.error["code"]) == (5, "request.not_found")
    wrong = dsops("site", "set", "plant-7", "-o", "json")
    assert (wrong.code, wrong.error["code"]) == (2, "request.invalid_input")


def test_the_status_says_what_the_broker_is_offered_and_may_be(dsops: Dsops) -> None:
    shown = dsops("server", "status", "-o", "json").result
    assert shown["retained_limit_bytes"] == 256_000_000
    assert 0 <= shown["retained_bytes"] <= shown["retained_limit_bytes"]
