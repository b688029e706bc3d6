"""What the client for programs says to arguments that cannot be, and where no memory can be shared: errors of dsops."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_bundles import frames, make_bundle
from serving_runtime import serving

from dsops.client import Inference
from dsops.errors import InvalidInput, NoMemory

pytestmark = pytest.mark.integration
ROWS = frames(4)
LONE = "\ud800"
"""Half of a character, of which no UTF-8 can be made."""


class _OnAnAccelerator:
    """What other libraries do with an array that is not in memory of the host."""

    def __array__(self, *_: object, **__: object) -> Any:
        raise RuntimeError("copy it to the host first")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"image": [[1.0, 2.0], [3.0]]}, "input 'image' is no array"),
        ({"image": _OnAnAccelerator()}, "copy it to the host first"),
        ({"image": [None]}, "cannot be of type object"),
        ({"frames": {5: ROWS}}, "an input's name is a text: got 5"),
        ({"frames": {LONE: ROWS}}, "an input's name is a text of characters"),
        ({"key": 5}, "a key is a text: got 5"),
        ({"key": LONE}, "a key is a text of characters"),
        ({"form": 3}, "a form is a text: got 3"),
        ({"form": 0}, "a form is a text: got 0"),
        ({"request_id": 5}, "a request_id is a text: got 5"),
        ({"request_id": LONE}, "a request_id is a text of characters"),
        ({"outputs": [3]}, "an output's name is a text: got 3"),
        ({"outputs": "label"}, "outputs are several names: got 'label'"),
        ({"outputs": None}, "outputs are several names: got None"),
    ],
)
def test_what_no_request_can_bear_is_refused_by_name(short_path: Path, asked: dict[str, Any], text: str) -> None:
    given = asked if {"image", "frames"} & asked.keys() else {"image": ROWS, **asked}
    with Inference(short_path / "inference.sock", "compass") as compass, pytest.raises(InvalidInput) as refused:
        compass.infer(**given)
    assert text in str(refused.value)


@pytest.mark.parametrize("model", [5, None, LONE])
def test_the_name_of_a_model_is_a_text(short_path: Path, model: Any) -> None:
    with pytest.raises(InvalidInput, match="the name of a model is a text"):
        Inference(short_path / "inference.sock", model)


@pytest.mark.parametrize(
    "figure",
    [
        {"value": 10**400},
        {"value": 1j},
        {"value": np.zeros(2)},
        {"unit": LONE},
        {"model": 5},
        {"tags": {5: "a"}},
        {"tags": {"line": LONE}},
        {"tags": 5},
    ],
)
def test_a_figure_that_cannot_be_is_refused(short_path: Path, figure: dict[str, Any]) -> None:
    with Inference(short_path / "inference.sock", "compass") as compass, pytest.raises(InvalidInput) as refused:
        compass.kpi("parts", **{"value": 1, **figure})
    assert "figure 'parts' cannot be reported" in str(refused.value)
    assert "a value is a finite number" in refused.value.hint


@contextmanager
def _little_room(size: int) -> Iterator[None]:
    """Let this process make no file longer than this, as a memory that is full would not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_memory_that_cannot_be_shared_is_said_to_be(short_path: Path) -> None:
    large = np.zeros((1 << 20, 4), np.float32)
    with Inference(short_path / "inference.sock", "compass", shared_memory=True) as compass, _little_room(1 << 20):
        with pytest.raises(NoMemory, match="no memory can be shared with the agent: ") as refused:
            compass.infer(image=large)
        assert "without shared_memory" in refused.value.hint
    assert not list(Path("/dev/shm").glob(f"dsops-{os.getpid()}-*"))


def test_no_frames_are_refused_by_the_agent_however_they_are_sent(short_path: Path, tmp_path: Path) -> None:
    said = []
    with serving(short_path, make_bundle(tmp_path)):
        for shared_memory in (False, True):
            with Inference(short_path / "inference.sock", "compass", shared_memory=shared_memory) as compass:
                for inputs in ({"image": ROWS[:0]}, {}):
                    with pytest.raises(InvalidInput, match="the agent refused") as refused:
                        compass.infer(inputs)
                    said.append(str(refused.value))
    assert said[:2] == said[2:]
