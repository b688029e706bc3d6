import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsops.errors import InvalidInput
from dsops.manifest import TensorSpec
from dsops_controller.build.data import DataSet, check_inputs, read_data
from dsops_controller.build.npz import MAX_BYTES

IMAGE = TensorSpec(name="image", datatype="INT8", shape=(1, 4, 4, 1), scale=0.1)
TOKENS = TensorSpec(name="tokens", datatype="INT32", shape=(1, 6))
GIVEN: dict[str, Any] = {"x": np.ones((5, 4, 4, 1), np.float32), "y": np.arange(5)}


def written(folder: Path, arrays: dict[str, Any]) -> Path:
    path = folder / "some.npz"
    np.savez(path, **arrays)
    return path


def read(path: Path, *specs: TensorSpec, needs_truth: bool = True) -> DataSet:
    return read_data(path, specs or (IMAGE,), "the evaluation data", needs_truth=needs_truth)


def test_frames_truth_and_groupings_are_read(tmp_path: Path) -> None:
    found = read(written(tmp_path, GIVEN | {"slice.site": np.array(["a", "b", "a", "b", "a"])}))
    assert len(found) == 5
    assert found.inputs["image"].dtype == np.float32
    assert found.y is not None
    assert found.y.dtype == np.int64
    assert list(found.slices["site"]) == ["a", "b", "a", "b", "a"]


def test_the_only_input_may_go_by_its_name(tmp_path: Path) -> None:
    assert len(read(written(tmp_path, {"image": GIVEN["x"], "y": GIVEN["y"]}))) == 5


def test_several_inputs_keep_their_dtypes(tmp_path: Path) -> None:
    path = written(tmp_path, {"image": GIVEN["x"], "tokens": np.zeros((5, 6), np.int32)})
    found = read(path, IMAGE, TOKENS, needs_truth=False)
    assert found.y is None
    assert {name: values.dtype for name, values in found.inputs.items()} == {
        "image": np.dtype(np.float32),
        "tokens": np.dtype(np.int32),
    }


def test_rows_are_taken_of_everything() -> None:
    data = DataSet({"x": np.arange(5.0), "z": np.arange(5)}, np.arange(5), {"site": np.arange(5)})
    taken = data.rows(np.array([3, 1]))
    assert [list(values) for values in (*taken.inputs.values(), taken.y, *taken.slices.values()) if values is not None]
    assert list(taken.inputs["z"]) == list(taken.slices["site"]) == [3, 1]
    assert taken.y is not None
    assert list(taken.y) == [3, 1]
    assert len(data.rows(slice(0, 2))) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": None}, r"some.npz has no array 'x': its arrays are: y"),
        ({"y": None}, r"no array 'y'"),
        ({"x": np.ones((5, 4, 4, 1))}, r"array 'x' of the evaluation data in some.npz is float64: float32 is needed"),
        ({"x": np.ones((5, 4, 4), np.float32)}, r"'x' of .* has frames of shape \[4, 4\]: .* \[4, 4, 1\]"),
        ({"x": np.ones((0, 4, 4, 1), np.float32)}, r"'x' of .* has shape \[0, 4, 4, 1\]: frames are needed"),
        ({"x": np.float32(3)}, r"'x' of .* has shape \[\]"),
        ({"y": np.arange(4)}, r"'y' of .* has shape \[4\]: there are 5 frames"),
        ({"y": np.array([0, 1, np.nan, 0, 1])}, r"'y' of .* holds NaN .*: the first is in frame 2"),
        ({"y": np.array([None] * 5)}, r"array 'y' in some.npz is object"),
        ({"slice.site": np.arange(4)}, r"'slice.site' of .* is int64 \[4\]"),
        ({"slice.site": np.arange(5.0)}, r"'slice.site' of .* is float64"),
        ({"slice.site": np.full(5, "a" * 257)}, r"'slice.site' of .* texts of 256 characters at most"),
        ({"slice.site": np.full(5, 1 << 63, np.uint64)}, r"'slice.site' of .* holds 9223372036854775808: the largest"),
        ({"y": np.array([1, 2, 3, 4, (1 << 64) - 1], np.uint64)}, r"'y' of .* holds 18446744073709551615: the largest"),
        ({"y": np.array([1, 2, 3, 4, -1e300])}, r"'y' of .* holds values that do not fit float32: .* 3.4e\+38"),
    ],
)
def test_a_wrong_array_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    arrays = {name: values for name, values in (GIVEN | change).items() if values is not None}
    with pytest.raises(InvalidInput, match=said):
        read(written(tmp_path, arrays))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_frame_that_is_not_finite_is_named(tmp_path: Path, bad: float) -> None:
    frames = GIVEN["x"].copy()
    frames[3, 1, 1, 0] = bad
    with pytest.raises(InvalidInput, match=r"'x' of .* holds NaN or infinite values: the first is in frame 3"):
        read(written(tmp_path, GIVEN | {"x": frames}))


def test_inputs_of_different_lengths_are_refused() -> None:
    inputs = {"image": GIVEN["x"], "tokens": np.zeros((4, 6), np.int32)}
    with pytest.raises(InvalidInput, match=r"different numbers of frames: image: 5, tokens: 4"):
        check_inputs(inputs, [IMAGE, TOKENS], "the data")


def test_an_unknown_input_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"array 'picture': the model's inputs are image"):
        check_inputs({"image": GIVEN["x"], "picture": GIVEN["x"]}, [IMAGE], "the data")


def npz_of(folder: Path, member: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    path = folder / "made.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", member)
    return path


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_a_header_that_announces_more_than_the_file_holds_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"array 'x' in made.npz is damaged: its header announces 64000000000 bytes"):
        read(npz_of(tmp_path, header("(1000000000, 4, 4, 1)")), needs_truth=False)


@pytest.mark.parametrize(
    ("shape", "descr", "said"),
    [
        ("(100000000,)", "<f8", "'x' of the evaluation data in made.npz is float64: float32 is needed"),
        ("(20000, 5000)", "<f4", r"'x' of .* has frames of shape \[5000\]"),
    ],
)
def test_what_the_model_does_not_take_is_refused_by_its_header(
    tmp_path: Path, shape: str, descr: str, said: str
) -> None:
    """The values cannot be unpacked: reading them would be another error."""
    path = npz_of(tmp_path, header(shape, descr) + bytes(1 << 22), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = enlarged(bytes(data[len(data) // 2 :]))
    path.write_bytes(bytes(data))
    with pytest.raises(InvalidInput, match=said):
        read(path, needs_truth=False)


def enlarged(directory: bytes) -> bytes:
    """Let a file's directory announce that its member has 900 MB, packed into 1 MB."""
    at = directory.rindex(b"PK\x01\x02")
    sizes = (1_000_000).to_bytes(4, "little") + (900_000_000).to_bytes(4, "little")
    return directory[: at + 20] + sizes + directory[at + 28 :]


def test_truth_and_groupings_of_another_shape_are_refused_by_their_header(tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    frames = io.BytesIO()
    np.save(frames, GIVEN["x"])
    for name in ("y", "slice.site"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", frames.getvalue())
            archive.writestr(f"{name}.npy", header("(4, 9)") + b"\xff" * 144)  # NaN, if it were read
        with pytest.raises(InvalidInput, match=rf"{name}' of .*\[4, 9\]"):
            read(path, needs_truth=False)


def test_a_header_without_an_end_is_not_read(tmp_path: Path) -> None:
    text = header("(5, 4, 4, 1)")[10:]
    endless = b"\x93NUMPY\x02\x00" + (1 << 24).to_bytes(4, "little") + text.ljust(1 << 24)
    with pytest.raises(InvalidInput, match=r"made.npz is not an .npz file of plain arrays: EOF"):
        read(npz_of(tmp_path, endless, zipfile.ZIP_DEFLATED), needs_truth=False)


@pytest.mark.parametrize("place", [0, 69_999, 70_000, 139_999])
def test_a_bad_frame_among_many_is_found(place: int) -> None:
    values = np.zeros((140_000, 15), np.float32)
    values[place, 7] = np.nan
    spec = TensorSpec(name="x", datatype="FP32", shape=(1, 15))
    with pytest.raises(InvalidInput, match=f"the first is in frame {place}$"):
        check_inputs({"x": values}, [spec], "the data")


@pytest.mark.parametrize("end", ["pipe", "link"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, end: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(InvalidInput, match="it is not a regular file"):
        read(tmp_path / end)


def test_a_negative_or_huge_shape_is_refused(tmp_path: Path) -> None:
    for shape in ("(-1, 4)", "(9999999999999999999999, 4)", "('a',)", "(" * 60 + ")" * 60):
        with pytest.raises(InvalidInput):
            read(npz_of(tmp_path, header(shape)), needs_truth=False)


def test_an_array_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    count = MAX_BYTES // 64 + 1
    path = tmp_path / "made.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(header(f"({count}, 4, 4, 1)"))
        stream.write(bytes(1 << 16))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the directory's entry: sizes packed and unpacked
    data[at + 20 : at + 28] = (0xFFFFFFF0).to_bytes(4, "little") + (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(InvalidInput, match=r"'x' in made.npz is too large: .* 2048 MiB"):
        read(path, needs_truth=False)


def test_what_is_no_archive_of_plain_arrays_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, GIVEN["x"])
    damaged = bytearray(written(tmp_path, GIVEN).read_bytes())
    damaged[60:90] = bytes(30)
    for content in (b"", b"PK", buffer.getvalue(), bytes(damaged), bytes(damaged[: len(damaged) // 2])):
        path = tmp_path / "other.npz"
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"other.npz"):
            read(path)


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read the evaluation data .*: No such file"):
        read(tmp_path / "none.npz")
    with pytest.raises(InvalidInput, match="cannot read the evaluation data"):
        read(tmp_path)


def test_a_mutated_file_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    whole = written(tmp_path, GIVEN).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        mutated = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            mutated[at] = rng.integers(0, 256)
        path = tmp_path / "mutated.npz"
        path.write_bytes(bytes(mutated))
        try:
            read(path)
        except InvalidInput:
            refused += 1
    assert refused > 75
