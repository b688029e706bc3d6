"""Frames on standard input: an answer for each, in order, also for what is refused."""

import io
import json

import numpy as np
import pytest
from feed_stage import SimModel
from typing_extensions import override

from dsops.errors import DsopsError, InvalidInput, NotFound, NotServing, QueueFull, RuntimeCrashed, Throttled, TimedOut
from dsops_agent.feed.fit import Form
from dsops_agent.feed.patience import MOST_CRASHES, PatientModel
from dsops_agent.feed.stdin import Wanted, answer_all, feed_stdin


def answers(data: bytes, model: SimModel, **wanted: object) -> list[dict]:
    said: list[bytes] = []
    answer_all(io.BytesIO(data), model, Wanted("cam-1", "m", **wanted), said.append)
    return [json.loads(line) for line in said]


def test_lines_of_json() -> None:
    found = answers(b"[1,2,3,4]\n\nno\n[[1,1,1,1],[2,2,2,2]]\n[1]", SimModel())
    assert [one.get("outputs", {}).get("score") for one in found] == [10, None, 4, 8, None]
    assert [one["id"] for one in found] == ["stdin/0", "stdin/1", "stdin/2#0", "stdin/2#1", "stdin/3"]
    assert found[1]["error"] == "request.invalid_input"


def test_raw_values_and_what_is_left_at_the_end() -> None:
    data = np.arange(9, dtype="<i2").tobytes()
    found = answers(data, SimModel(), raw="int16", scale=0.5)
    assert [one.get("outputs", {}).get("score") for one in found] == [3, 11, None]
    with pytest.raises(InvalidInput, match="no fixed shape"):
        answers(data, SimModel(shape=(-1,)), raw="int16")
    with pytest.raises(InvalidInput, match="no type of numbers"):
        feed_stdin("/nowhere/x.sock", Wanted("d", "m", raw="object"))


class Away(SimModel):
    """Is unknown when it is asked for its form the first times."""

    unknown = 0

    @override
    def form(self) -> Form:
        if self.unknown:
            self.unknown -= 1
            raise NotFound("no such model is active")
        return super().form()


def waited_for(model: SimModel, data: bytes) -> tuple[list[dict], list[float]]:
    """Return the answers, and how long was waited for each of the next tries."""
    said: list[bytes] = []
    waits: list[float] = []
    patient = PatientModel(model, waits.append, lambda: 1.0)
    answer_all(io.BytesIO(data), patient, Wanted("cam-1", "m"), said.append)
    return [json.loads(line) for line in said], waits


@pytest.mark.parametrize("kind", [NotServing, QueueFull, Throttled, TimedOut, RuntimeCrashed, NotFound])
def test_what_passes_by_itself_is_waited_for(kind: type[DsopsError]) -> None:
    model = SimModel(failures=[kind("not now")] * 3)
    found, waits = waited_for(model, b"[1,2,3,4]\n[1,1,1,1]\n")
    assert [one["outputs"]["score"] for one in found] == [10, 4]
    assert model.ids == ["stdin/0", "stdin/1"]
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]


def test_a_frame_over_which_the_runtime_fails_again_and_again_is_refused_and_the_next_one_answered() -> None:
    model = SimModel(failures=[RuntimeCrashed("it failed")] * MOST_CRASHES)
    found, _ = waited_for(model, b"[1,2,3,4]\n[1,1,1,1]\n")
    assert [one.get("error") for one in found] == ["device.runtime_crashed", None]


def test_a_model_that_nobody_has_heard_of_ends_it_at_the_start() -> None:
    model = Away()
    model.unknown = 1
    with pytest.raises(NotFound):
        waited_for(model, b"[1,2,3,4]")
    model.failures = [NotFound("the model is not back yet")]
    assert len(waited_for(model, b"[1,2,3,4]")[0]) == 1
