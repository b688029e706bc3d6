"""Which frames do not come back, by what a watcher saw."""

import math
from collections.abc import Sequence

from dsops_agent.hangs import MOST_GAP_S, HangWatch
from dsops_agent.runtime.flight import InFlight


def frame(now_s: float, began_s: float, most_s: float = 5.0, model: str = "digits") -> InFlight:
    return InFlight(model, "d" * 64, now_s - began_s, 7, most_s, int(began_s * 1e9))


def found(looks: Sequence[float], began_s: float, most_s: float = 5.0, general_s: float = 20.0) -> float:
    """Return at which look a frame counts as one that hangs; infinite when at none."""
    watch = HangWatch(general_s, 0.0)
    for now_s in looks:
        running = [frame(now_s, began_s, most_s)] if now_s >= began_s else []
        if watch.look(running, now_s):
            return now_s
    return math.inf


def test_a_frame_hangs_once_it_was_seen_for_longer_than_it_may() -> None:
    assert found(range(1, 60), 10.5) == 16
    assert found(range(1, 60), 10.5, most_s=math.inf) == 31, "the general limit holds for all"
    assert found(range(1, 60), 10.5, most_s=40.0) == 31


def test_frames_that_come_back_do_not_hang_however_many_there_are() -> None:
    watch = HangWatch(20.0, 0.0)
    assert not any(watch.look([frame(now_s, now_s - 0.9)], now_s) for now_s in map(float, range(1, 100)))


def test_a_halt_of_the_host_is_not_counted_though_the_clock_goes_on() -> None:
    looks = [1.0, 2.0, 3.0, 3603.0, 3604.0, 3605.0, 3606.0, 3607.0]
    assert found(looks[:4], 2.5) == math.inf
    assert found(looks, 2.5) == 3606.0, "what it was seen to take before and after counts"
    assert found([1.0, 2.0, 900.0], 2.5, most_s=MOST_GAP_S) == math.inf


def test_a_frame_that_ran_before_the_watch_began_is_watched_from_then_on() -> None:
    assert found([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], -600.0) == 6.0


def test_the_frame_that_took_longest_is_named_first() -> None:
    watch, hangs = HangWatch(20.0, 0.0), ()
    for now_s in map(float, range(1, 20)):
        hangs = watch.look([frame(now_s, 1.0, 9.0, "faces"), frame(now_s, 0.5, 9.0)], now_s)
        if hangs:
            break
    assert [one.model for one in hangs] == ["digits"]
    assert [one.model for one in watch.look([frame(20.0, 1.0, 9.0, "faces"), frame(20.0, 0.5, 9.0)], 20.0)] == [
        "digits",
        "faces",
    ]
