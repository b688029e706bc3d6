"""Which requests are answered in a moment."""

from dsops_agent.runtime.batches import BATCH_FRAMES
from dsops_agent.runtime.pace import QUICK_US, Pace


def paced(*latency_us: float) -> Pace:
    pace = Pace()
    for one in latency_us:
        pace.took([one])
    return pace


def test_nothing_is_quick_before_anything_was_timed() -> None:
    assert not Pace().is_quick(1)


def test_frames_count_by_what_each_takes() -> None:
    pace = paced(QUICK_US / 3)
    assert [pace.is_quick(frames) for frames in (1, 3, 4)] == [True, True, False]
    assert not paced(QUICK_US * 1.01).is_quick(1)


def test_what_may_be_tried_in_a_batch_is_never_quick() -> None:
    pace = paced(0.001)
    assert [pace.is_quick(frames) for frames in (BATCH_FRAMES - 1, BATCH_FRAMES)] == [True, False]


def test_one_frame_that_others_held_up_changes_nothing_and_many_do() -> None:
    held_up = QUICK_US * 100
    assert paced(QUICK_US / 2, held_up).is_quick(1)
    assert not paced(QUICK_US / 2, *[held_up] * 10).is_quick(1)
    assert paced(QUICK_US / 2, *[held_up] * 10, QUICK_US / 2).is_quick(1)
