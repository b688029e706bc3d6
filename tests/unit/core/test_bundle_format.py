"""The container refuses everything that is not exactly one bundle, and gives equal bytes for equal inputs."""

import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.errors import DigestMismatch, InvalidInput, MalformedBundle
from dsops.files import write_atomically
from dsops.manifest import Manifest, TensorSpec

BLOBS = {"model.tflite": b"TFL3" * 9, "profile.json": b"{}", "golden.bin": b"gold"}


def manifest(given: dict[str, bytes] | None = None, **changes: object) -> Manifest:
    image = TensorSpec(name="image", datatype="INT8", shape=(1, 8, 8, 1), scale=0.1)
    scores = TensorSpec(name="scores", datatype="INT8", shape=(1, 2), scale=0.004)
    base = Manifest(
        model="digits", release=1, labels=("a", "b"), inputs=(image,), outputs=(scores,),
        blobs=describe_blobs(BLOBS),
    )  # fmt: skip
    return Manifest.model_validate(base.model_dump() | {"blobs": describe_blobs(given or BLOBS)} | changes)


def stored(folder: Path, data: bytes) -> Path:
    path = folder / "x.bundle"
    path.write_bytes(data)
    return path


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    opened = Bundle.open(stored(tmp_path, encode_bundle(manifest(), BLOBS)))
    assert opened.manifest == manifest()
    assert {name: opened.read(name) for name in BLOBS} == BLOBS
    opened.verify()


def test_a_blob_comes_in_pieces_that_are_checked_at_the_end(tmp_path: Path) -> None:
    blobs = BLOBS | {"lens.bin": bytes(3_000_000)}
    files = ({"blob": "lens.bin", "kind": "calibration"},)
    data = bytearray(encode_bundle(manifest(blobs, files=files), blobs))
    opened = Bundle.open(stored(tmp_path, bytes(data)))
    pieces = list(opened.pieces("lens.bin"))
    assert len(pieces) == 3
    assert b"".join(pieces) == blobs["lens.bin"]
    data[len(data) // 2] ^= 1
    opened = Bundle.open(stored(tmp_path, bytes(data)))
    with pytest.raises(DigestMismatch, match=r"blob lens\.bin"):
        list(opened.pieces("lens.bin"))
    with pytest.raises(MalformedBundle, match="no blob"):
        list(opened.pieces("absent"))


def test_equal_inputs_give_equal_bytes_in_any_order() -> None:
    backwards = dict(reversed(BLOBS.items()))
    assert encode_bundle(manifest(), BLOBS) == encode_bundle(manifest(backwards), backwards)


def test_blobs_must_be_those_of_the_manifest() -> None:
    with pytest.raises(InvalidInput):
        encode_bundle(manifest(), BLOBS | {"golden.bin": b"other"})


def test_a_flipped_byte_is_refused_or_makes_another_manifest(tmp_path: Path) -> None:
    data = encode_bundle(manifest(), BLOBS)
    others = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        try:
            opened = Bundle.open(stored(tmp_path, bytes(damaged)))
            opened.verify()
        except (MalformedBundle, DigestMismatch):
            continue
        others += 1
        assert opened.manifest != manifest()  # which the signed digest of the whole file tells apart
    assert others < len(manifest().encode()) / 2


@pytest.mark.parametrize("cut", [0, 5, 15, 16, 40, -1])
def test_a_cut_file_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(MalformedBundle):
        Bundle.open(stored(tmp_path, encode_bundle(manifest(), BLOBS)[:cut]))


def test_a_longer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match="manifest says"):
        Bundle.open(stored(tmp_path, encode_bundle(manifest(), BLOBS) + b"\0"))


def test_blobs_in_another_order_are_refused(tmp_path: Path) -> None:
    backwards = manifest(blobs=manifest().blobs[::-1])
    head = backwards.encode()
    parts = [struct.pack("<8sII", b"DSOPSBND", 1, len(head)), head, *(BLOBS[blob.name] for blob in backwards.blobs)]
    with pytest.raises(MalformedBundle, match="not in order"):
        Bundle.open(stored(tmp_path, b"".join(parts)))


def test_an_absent_file_and_a_folder_are_clear_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(MalformedBundle, match="cannot read"):
            Bundle.open(path)


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(MalformedBundle, match="not a regular file"):
            Bundle.open(path)


def test_a_large_blob_is_verified_in_pieces(tmp_path: Path) -> None:
    large = bytes(5 << 20)
    blobs = BLOBS | {"model.tflite": large}
    opened = Bundle.open(stored(tmp_path, encode_bundle(manifest(blobs), blobs)))
    tracemalloc.start()
    opened.verify()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20


def test_a_bundle_that_went_away_or_changed_after_it_was_opened_is_a_clear_error(tmp_path: Path) -> None:
    data = encode_bundle(manifest(), BLOBS)
    opened = Bundle.open(stored(tmp_path, data))
    stored(tmp_path, data[:-1])
    with pytest.raises(DigestMismatch):
        opened.verify()
    opened.path.unlink()
    for use in (opened.verify, lambda: opened.read("golden.bin")):
        with pytest.raises(MalformedBundle, match="cannot read"):
            use()


def test_a_manifest_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path: Path) -> None:
    head = struct.pack("<8sII", b"DSOPSBND", 1, 0xFFFFFFFF)
    with pytest.raises(MalformedBundle, match="too long"):
        Bundle.open(stored(tmp_path, head + b"{}"))


def test_a_newer_format_says_to_update(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle) as caught:
        Bundle.open(stored(tmp_path, struct.pack("<8sII", b"DSOPSBND", 3, 2) + b"{}"))
    assert "update" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"labels": ("a", "b", "c")}, "labels"),
        ({"payload": "absent.tflite"}, "named but absent"),
        ({"payload": "other.tflite"}, "there but not named"),
        ({"release": 0}, "release"),
        ({"model": "../x"}, "model"),
        ({"surprise": 1}, "surprise"),
        ({"format": 2}, "format"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        manifest(**change)


def test_only_the_canonical_text_of_a_manifest_is_one() -> None:
    text = manifest().encode()
    assert Manifest.decode(text) == manifest()
    with pytest.raises(MalformedBundle, match="canonical"):
        Manifest.decode(text.replace(b'"model":', b'"model": ', 1))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes_never_surprise(data: bytes) -> None:
    with pytest.raises(MalformedBundle):
        Manifest.decode(data)


def test_an_atomic_write_replaces_whole_files_and_leaves_no_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
