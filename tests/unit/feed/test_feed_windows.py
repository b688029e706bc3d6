"""Streams cut into windows, and how many frames pass in a second."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops_agent.feed.pace import Pace
from dsops_agent.feed.windows import Windows


@given(
    length=st.integers(1, 9),
    stride=st.integers(1, 12),
    pieces=st.lists(st.integers(0, 17), min_size=1, max_size=12),
)
def test_pieces_of_any_length_give_the_windows_of_the_whole(length: int, stride: int, pieces: list[int]) -> None:
    stream = np.arange(sum(pieces), dtype=np.float32)
    windows = Windows(length, stride)
    found, at = [], 0
    for size in pieces:
        found.extend(windows.add(stream[at : at + size]).tolist())
        at += size
    assert found == [stream[i : i + length].tolist() for i in range(0, len(stream) - length + 1, stride)]


def test_after_a_gap_no_window_holds_samples_from_before_it() -> None:
    windows = Windows(3, 2)
    assert windows.add(np.arange(4)).tolist() == [[0, 1, 2]]
    windows.restart()
    assert windows.add(np.arange(10, 13)).tolist() == [[10, 11, 12]]


def test_samples_of_several_channels_stay_together_and_do_not_change_their_shape() -> None:
    windows = Windows(2, 2)
    assert windows.add(np.ones((3, 6))).shape == (1, 2, 6)
    with pytest.raises(ValueError, match="must match"):
        windows.add(np.ones((3, 5)))


def test_a_rate_lets_frames_pass_evenly_and_saves_nothing_up() -> None:
    pace = Pace(10)
    passed = [pace.passes(tick / 30) for tick in range(31)]
    assert sum(passed) == 11
    assert pace.passes(100.0)
    assert not pace.passes(100.05)
    assert pace.wait_s(100.05) == pytest.approx(0.05)


def test_without_a_rate_everything_passes() -> None:
    pace = Pace(0)
    assert all(pace.passes(1.0) for _ in range(5))
    assert pace.wait_s(1.0) == 0
