"""Which frames do not come back, by what a watcher saw."""

import math
from collections.abc import Sequence

from dsops_agent.hangs import MOST_GAP_S, QUIET_S, HangWatch, Silence, may_be_silent_s
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


def test_a_frame_whose_process_could_not_run_does_not_hang() -> None:
    watch = HangWatch(20.0, 0.0)
    for now_s in range(1, 100):
        assert not watch.look([frame(now_s, 0.5)], now_s, able_s=0.0)
    looks = [bool(watch.look([frame(now_s, 0.5)], now_s, able_s=0.5)) for now_s in range(100, 120)]
    assert looks.index(True) == 10, "half of the time it could"


def test_silence_is_what_was_seen_of_it_while_the_process_could_answer() -> None:
    silence = Silence(0.0)
    assert silence.look(1.0, 1.0) == 1.0
    assert silence.look(500.0, 500.0) == 1.0 + MOST_GAP_S, "the host was halted"
    assert silence.look(501.0, 0.0) == 1.0 + MOST_GAP_S, "the process was suspended"


def test_a_process_may_be_silent_for_as_long_as_what_it_runs_may_take() -> None:
    def most_s(*frames: InFlight, is_at_work: bool = False) -> float:
        return may_be_silent_s(frames, 15.0, 20.0, QUIET_S, is_at_work=is_at_work)

    assert most_s() == QUIET_S
    assert most_s(frame(9.0, 0.0, most_s=8.0)) == 8.0
    assert most_s(frame(9.0, 0.0, most_s=8.0), frame(9.0, 0.0, most_s=math.inf)) == 15.0, "an instance is made"
    assert most_s(is_at_work=True) == 20.0, "a model is loaded"
