"""A file of frames at a rate."""

import threading
from pathlib import Path

import numpy as np
from feed_stage import SimModel, SimSink, line_of

from dsops.errors import InvalidInput
from dsops_agent.feed.replay import ReplaySource
from dsops_agent.feed.settings import Replay, Source


def test_a_release_with_another_input_that_comes_meanwhile_costs_no_frame(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    replay = Replay(path=tmp_path / "rows.npy")
    model, sink = SimModel(shape=(2, 2), later_shape=(2, 2, 1)), SimSink()
    model.failures = [InvalidInput("has shape 2x2x1")]
    line, counts = line_of(model, sink)
    source = Source(name="trial", model="m", rate_hz=1000, replay=replay)
    ReplaySource(source, replay).run(line, threading.Event())
    assert [batch.shape for batch in model.asked] == [(1, 2, 2, 1)] * 3
    assert sink.ids == ["inbox/0-0", "inbox/0-1", "inbox/0-2"]
    assert (counts.of_source().frames, counts.of_source().failures) == (3, 0)
