import io
import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from dsops.errors import InvalidInput, NotFound
from dsops_controller.dataops.samples.samples import SampleRow, npz

START = datetime(2026, 1, 1, tzinfo=UTC)


def row(number: int, shape: tuple[int, ...], datatype: str = "FP32") -> SampleRow:
    return SampleRow(
        id=f"cam-1/00/{number}",
        device="cam-1",
        model="digits",
        release=2,
        digest="ab" * 32,
        time=START + timedelta(microseconds=number),
        reason="drift",
        score=None if number == 0 else 0.5,
        inclusion=0.1,
        request_id=f"r-{number}",
        predicted="é",
        datatype=datatype,
        shape=shape,
        input_bytes=0,
    )


def test_frames_become_one_array_without_pickles() -> None:
    data = npz(
        [(row(0, (1, 2, 2)), struct.pack("<4f", 1, 2, 3, 4)), (row(1, (1, 2, 2)), struct.pack("<4f", 5, 6, 7, 8))]
    )
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    assert arrays["x"].dtype == np.float32
    assert arrays["x"].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert arrays["id"].tolist() == ["cam-1/00/0", "cam-1/00/1"]
    assert arrays["predicted"].tolist() == ["é", "é"]
    assert arrays["time_us"].tolist() == [1_767_225_600_000_000, 1_767_225_600_000_001]
    assert np.isnan(arrays["score"][0])
    assert set(arrays) == {
        "x", "id", "device", "reason", "predicted", "request_id", "digest", "time_us", "release", "score",
    }  # fmt: skip


def test_integers_keep_their_values() -> None:
    data = npz([(row(0, (3,), "INT8"), struct.pack("3b", -128, 0, 127))])
    assert np.load(io.BytesIO(data))["x"].tolist() == [[-128.0, 0.0, 127.0]]


def test_what_does_not_fit_in_one_array_is_refused() -> None:
    with pytest.raises(NotFound):
        npz([])
    with pytest.raises(InvalidInput, match="differ"):
        npz([(row(0, (1, 2)), bytes(8)), (row(1, (1, 3)), bytes(12))])
    with pytest.raises(InvalidInput, match="BYTES"):
        npz([(row(0, (1,), "BYTES"), b"text")])


def test_samples_without_inputs_are_told_and_not_exported() -> None:
    with pytest.raises(InvalidInput, match="1 of 2 samples have no input") as refused:
        npz([(row(1, (1, 2)), bytes(8)), (row(2, (), ""), b"")])
    assert "agent.toml" in refused.value.hint
