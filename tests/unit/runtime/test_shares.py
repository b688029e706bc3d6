"""A request with many frames: it keeps nobody else waiting to its end, and ends with its caller."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_bundles import frames, make_bundle
from runtime_watches import Witness
from slow_models import Slow, replace_loaded

from dsops.bundle import Bundle
from dsops.errors import Abandoned
from dsops.forms import Form
from dsops_agent.runtime.admission import Caller
from dsops_agent.runtime.batches import TRIED_FRAMES, State
from dsops_agent.runtime.dispatch import Decode, Dispatcher
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.flight import Made
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.sent import Sent
from dsops_agent.runtime.swap import Models

MANY = 64


class Marked:
    """Remembers how many runs each mark had."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def run(self, task: Callable[[], Made]) -> Made:
        self.runs.append(0)
        return task()

    def has_run(self) -> None:
        self.runs[-1] += 1


class Stage:
    """A dispatcher whose model takes 60 ms a frame until it is told to hurry."""

    def __init__(self, folder: Path) -> None:
        bundle = make_bundle(folder)
        models = Models(1, lambda _: Witness())
        served = models.activate("compass", bundle.path, bundle.digest, 1).model
        self.begun, self.hurry = threading.Event(), threading.Event()
        self.slow = Slow(served.loaded, self._pause)
        replace_loaded(served, self.slow)
        served.batches.state = State.REFUSED
        self.dispatcher = Dispatcher(models, Observers())
        self.served = models.get("compass")

    def _pause(self) -> None:
        self.begun.set()
        if not self.hurry.is_set():
            time.sleep(0.06)

    def ask(self, count: int, caller: Caller) -> int:
        return len(self.dispatcher.infer("compass", "", "", self._decode(count), caller=caller).answer.choices)

    def _decode(self, count: int) -> Decode:
        return lambda _: {"image": Sent(Form.REAL, frames(count))}


def test_others_are_answered_between_the_frames_of_a_large_request(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with ThreadPoolExecutor(1) as callers:
        large = callers.submit(stage.ask, MANY, Caller())
        assert stage.begun.wait(20)
        assert stage.ask(1, Caller()) == 1
        is_answered = large.done()
        stage.hurry.set()
        assert large.result(20) == MANY
    assert not is_answered, "who asked for one frame waited for all of another's"


def test_a_large_request_ends_with_its_caller_and_is_no_failure_of_the_model(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(Abandoned):
        stage.ask(MANY, Caller(is_gone=lambda: len(stage.slow.runs) >= 3))
    assert len(stage.slow.runs) < MANY
    assert (stage.served.watch.totals.requests, stage.served.watch.totals.errors) == (0, 0)
    stage.hurry.set()
    assert stage.ask(2, Caller()) == 2


def test_only_the_frames_that_are_needed_are_tried_in_batches_each_run_under_a_mark_of_its_own(tmp_path: Path) -> None:
    bundle, marked = make_bundle(tmp_path), Marked()
    served = replace(load_bundle(Bundle.open(bundle.path), bundle.digest, 1), marks=lambda: marked)
    slow = Slow(served.loaded, marked.has_run)
    replace_loaded(served, slow, most_time=1e9)
    served.infer({"image": frames(4 * TRIED_FRAMES)})
    assert served.batches.state is State.TRUSTED
    assert max(marked.runs) == 1, "what may take long as a whole counts as one frame that hangs"
    assert sum(slow.runs) == (4 + 1) * TRIED_FRAMES
