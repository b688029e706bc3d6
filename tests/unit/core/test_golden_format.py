"""Golden inputs as a blob: several inputs and outputs, and every way in which bytes are not golden inputs."""

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops import strictjson
from dsops.errors import InvalidInput, MalformedBundle
from dsops.golden import ITEM_BYTES, MAGIC, MAX_GOLDEN, GoldenSet, TensorBytes

IMAGE = TensorBytes("image", "float32", (2, 3), bytes(24))
INDEX = TensorBytes("index", "int64", (2,), bytes(16))
SCORES = TensorBytes("scores", "float32", (2, 1, 1), bytes(8))
FLAGS = TensorBytes("flags", "bool", (2, 3), bytes(6))
BOTH = GoldenSet((IMAGE, INDEX), (SCORES, FLAGS), (0.05, 0.0), ("a", "b"))


def test_every_tensor_comes_back() -> None:
    assert GoldenSet.decode(BOTH.encode()) == BOTH
    assert len(BOTH) == 2
    plain = replace(BOTH, labels=())
    assert GoldenSet.decode(plain.encode()) == plain


@given(st.data())
def test_any_golden_set_comes_back(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))

    def tensors(most: int) -> tuple[TensorBytes, ...]:
        found = []
        for number in range(data.draw(st.integers(1, most))):
            dtype: Any = data.draw(st.sampled_from(sorted(ITEM_BYTES)))
            shape = (rows, *data.draw(st.lists(st.integers(1, 3), max_size=3)))
            length = ITEM_BYTES[dtype]
            for size in shape:
                length *= size
            found.append(
                TensorBytes(f"t{number}", dtype, shape, data.draw(st.binary(min_size=length, max_size=length)))
            )
        return tuple(found)

    outputs = tensors(3)
    tolerances = tuple(data.draw(st.floats(0, 1e30)) for _ in outputs)
    labels = tuple("x" for _ in range(rows)) if data.draw(st.booleans()) else ()
    golden = GoldenSet(tensors(3), outputs, tolerances, labels)
    assert GoldenSet.decode(golden.encode()) == golden


@pytest.mark.parametrize(
    "wrong",
    [
        replace(BOTH, labels=("a",)),
        replace(BOTH, tolerances=(0.05,)),
        replace(BOTH, tolerances=(-1.0, 0.0)),
        replace(BOTH, tolerances=(float("nan"), 0.0)),
        replace(BOTH, inputs=()),
        replace(BOTH, outputs=(), tolerances=()),
        replace(BOTH, inputs=(replace(IMAGE, data=bytes(23)), INDEX)),
        replace(BOTH, inputs=(replace(IMAGE, shape=(3, 2)), INDEX)),
        replace(BOTH, inputs=(replace(IMAGE, name=""), INDEX)),
    ],
)
def test_parts_that_do_not_belong_together_are_not_written(wrong: GoldenSet) -> None:
    with pytest.raises(InvalidInput):
        wrong.encode()


def blob(**changes: Any) -> bytes:
    tensor = {"name": "x", "dtype": "float32", "shape": [1, 2]}
    header = {"format": 1, "labels": [], "tolerances": [0.1], "inputs": [tensor], "outputs": [tensor]} | changes
    text = strictjson.dumps(header)
    return MAGIC + struct.pack("<I", len(text)) + text + bytes(16)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "cut short"),
        (b"DSOPSBND" + bytes(20), "does not hold golden inputs"),
        (MAGIC + struct.pack("<I", 1 << 31), "cut short"),
        (MAGIC + struct.pack("<I", 2) + b"{]", "not strict JSON"),
        (blob()[:-1], "their header says"),
        (blob() + b"x", "their header says"),
        (blob(format=2), "format"),
        (blob(more=1), "more"),
        (blob(inputs=[{"name": "x", "dtype": "float64", "shape": [1, 2]}]), "dtype"),
        (blob(inputs=[{"name": "x", "dtype": "float32", "shape": [1, -2]}]), "shape"),
        (blob(inputs=[{"name": "x", "dtype": "int64", "shape": [1, 1 << 24, 1 << 24]}]), "are allowed"),
        (blob(inputs=[{"name": "x", "dtype": "bool", "shape": [MAX_GOLDEN + 1]}]), "rows"),
        (blob(inputs=[]), "inputs"),
        (blob(tolerances=[0.1, 0.1]), "every output needs a tolerance"),
    ],
)
def test_bytes_that_are_no_golden_inputs(data: bytes, text: str) -> None:
    with pytest.raises(MalformedBundle, match=text):
        GoldenSet.decode(data)


@given(st.binary(max_size=200))
def test_random_bytes_after_the_magic_never_surprise(data: bytes) -> None:
    with pytest.raises(MalformedBundle):
        GoldenSet.decode(MAGIC + data)
