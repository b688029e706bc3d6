"""With as many labels, the frames that the sampler returns make a better model than frames at random.

The whole of it, with limits for eight seeds, is ``benchmarks/sampler.py``.
"""

import statistics

import pytest
from measure.returning import judge, make_scene, returned_at_random, returned_by_the_sampler

SEEDS = (1, 2)
COUNT = 100


@pytest.mark.slow
def test_returned_samples_beat_as_many_frames_at_random_under_shift() -> None:
    gains = []
    for seed in SEEDS:
        scene = make_scene(seed)
        ours = returned_by_the_sampler(scene, COUNT)
        assert 0.9 * COUNT <= len(ours) <= COUNT
        ours_right, _ = judge(scene, ours, balanced=False)
        theirs_right, _ = judge(scene, returned_at_random(scene, len(ours)), balanced=False)
        gains.append(ours_right - theirs_right)
    assert statistics.mean(gains) >= 0.015, gains
