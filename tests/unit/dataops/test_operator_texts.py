"""What operators read of drift and of what a device ran: numbers with their nouns, times to the second, no code."""

import pytest

from dsops.profile import Signal
from dsops_controller.cli.drift_pages import markdown
from dsops_controller.cli.trace import policy_words

STATES = {"drift": 1, "warning": 0, "ok": 0}
BUNDLE = {
    "release": 5, "digest": "b" * 64, "devices": 1, "states": STATES, "alarmed": 1, "skewed": 0, "reports": 4,
    "why_no_test": "", "frames": 918, "counted": 1, "p_value": 0.25, "signals": [],
}  # fmt: skip
REPORT = {
    "model": "digits", "since": "2026-11-28T02:50:13.393893Z", "until": "2026-11-28T03:51:13.507262Z",
    "now": {"devices": 1, "states": STATES, "skewed": 0, "stale": 0, "drifted": ["cam-1"], "fdr": 0.05},
    "bundles": [BUNDLE],
}  # fmt: skip


def test_a_report_counts_in_words_and_tells_time_to_the_second() -> None:
    page = markdown(REPORT)
    assert "From 2026-11-28 02:50:13Z until 2026-11-28 03:51:13Z." in page
    assert "Now: 1 device, 1 drift (100%)" in page
    assert "4 reports. 918 frames in 1 histogram, p 0.25 (corrected)." in page


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"floor": 2, "ring": {"fraction": 1.0, "salt": "", "canary": []}}, ["floor 2", "ring 100% of devices"]),
        (
            {"floor": 2, "ring": {"fraction": 0.1, "salt": "s", "canary": ["cam-1", "cam-2"]}},
            ["floor 2", "ring 10% of devices and cam-1, cam-2"],
        ),
        ({"floor": 2, "ring": None}, ["floor 2", "no ring"]),
        ({}, []),
    ],
)
def test_a_policy_is_told_in_words(says: dict[str, object], words: list[str]) -> None:
    assert policy_words(says) == words


def test_an_edge_that_rounding_moved_off_zero_is_zero() -> None:
    counts = (0, 100, 100, 0)
    moved = Signal(name="margin", kind="ordinal", edges=(-4.98e-07, 0.939, 1.0), counts=counts)
    assert [moved.name_of(at) for at in (0, 1)] == ["below 0", "0 to 0.939"]
    small = Signal(name="entropy", kind="ordinal", edges=(1e-07, 2e-07, 1.0), counts=counts)
    assert small.name_of(1) == "1e-07 to 2e-07"
