"""Frames on standard input: an answer for each, in order, also for what is refused."""

import io
import json

import numpy as np
import pytest
from feed_stage import SimModel

from dsops.errors import InvalidInput, NotServing
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


def test_without_a_model_it_ends() -> None:
    with pytest.raises(NotServing):
        answers(b"[1,2,3,4]", SimModel(failures=[NotServing("none")]))
