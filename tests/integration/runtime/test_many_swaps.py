"""A hundred releases after each other, under 200 requests a second."""

import tempfile
import time
from pathlib import Path

import pytest
from champion_stage import Champion
from runtime_bundles import make_bundle

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SWAPS = 100
RATE_HZ = 200.0
GROWTH = 1.05
SETTLE_S, LATE_S = 8.0, 60.0
WARM, WARM_HZ = 6000, 1500.0
"""Answers until a process has all that it keeps without a swap, such as samples of a period: 3 MB."""
BETWEEN = 10
"""Answers between two swaps."""


def resident_bytes(champion: Champion, enough: float = 0.0) -> int:
    """Return what the process has in memory when it has looked at every answer that it gave, which takes a while.

    What is ``enough`` need not become less; a busy machine has longer for that, as what is kept for good never goes.
    """
    champion.program.rests.set()
    least = int(champion.status()["rss_bytes"])
    ends_s = time.monotonic() + (LATE_S if enough else SETTLE_S)
    while least > enough and time.monotonic() < ends_s:
        time.sleep(0.1)
        least = min(least, int(champion.status()["rss_bytes"]))
    champion.program.rests.clear()
    return least


def test_no_request_is_lost_no_answer_mixed_and_no_memory_kept(tmp_path: Path) -> None:
    releases = [make_bundle(tmp_path, release=n, int8=False, gain=2.0 + n / 50) for n in range(1, SWAPS + 2)]
    with tempfile.TemporaryDirectory(prefix="ds") as name:  # a test's own folder may be too long for a socket
        champion = Champion(Path(name), releases[0], RATE_HZ, rows=1)
        try:
            champion.wait_for_answers(200)
            champion.activate(releases[1])
            champion.program.rate_hz = WARM_HZ
            champion.wait_for_answers(WARM)
            champion.program.rate_hz = RATE_HZ
            after_one = resident_bytes(champion)
            for release in releases[2:]:
                champion.activate(release)
                champion.wait_for_answers(BETWEEN)
            champion.wait_for_answers(200)
            after_all = resident_bytes(champion, GROWTH * after_one)
        finally:
            champion.close()
    program = champion.program
    assert program.problems == []
    assert set(program.answers) == {release.digest for release in releases}
    assert len(set(program.values.values())) == len(releases)
    assert after_all <= GROWTH * after_one, f"{after_one} bytes after one swap, {after_all} after all"
