"""Making deltas of real bundles: what goes together is subtracted, and what comes out makes the target."""

import io
import struct

import pytest
from delta_bundles import digits, payload_of, repacked, tuned
from hypothesis import given, settings
from hypothesis import strategies as st

from dsops.bundle import sha256_hex
from dsops.delta import Ends, Piece, apply_delta, is_worth
from dsops_controller.build.bundles.payload import read_payload
from dsops_controller.deltas.making import make_delta
from dsops_controller.deltas.matching import BundleBytes, match

OLD = digits()


def remade(old: BundleBytes, new: BundleBytes) -> tuple[bytes, bytes]:
    delta = make_delta(old, new)
    out = io.BytesIO()
    ends = Ends(sha256_hex(old.data), sha256_hex(new.data), len(new.data))
    for _ in apply_delta(io.BytesIO(delta), io.BytesIO(old.data), out, ends):
        pass
    assert out.getvalue() == new.data
    return delta, out.getvalue()


def literal_bytes(pieces: list[Piece]) -> int:
    return sum(piece.length for piece in pieces if piece.source is None)


def test_a_fine_tuned_model_packs_small() -> None:
    new = repacked(OLD, 2, model__tflite=tuned(payload_of(OLD)))
    delta, _ = remade(OLD, new)
    assert is_worth(len(delta), len(new.data))
    assert len(delta) < 0.25 * len(new.data)


def test_equal_bundles_give_equal_bytes() -> None:
    new = repacked(OLD, 2, model__tflite=tuned(payload_of(OLD)))
    assert make_delta(OLD, new) == make_delta(digits(), new)


def test_only_the_manifest_changes() -> None:
    new = repacked(OLD, 12)
    pieces = list(match(OLD, new))
    assert literal_bytes(pieces) == new.head_bytes
    delta, _ = remade(OLD, new)
    assert len(delta) < new.head_bytes


def test_constants_are_found_where_the_file_moved_them() -> None:
    payload = payload_of(OLD)
    (root,) = struct.unpack_from("<I", payload)
    moved = struct.pack("<I", root + 64) + payload[4:8] + bytes(64) + tuned(payload)[8:]
    new = repacked(OLD, 2, model__tflite=moved)
    starts = [weight.start for weight in read_payload(moved).weights]
    assert starts == [weight.start + 64 for weight in read_payload(payload).weights]
    pieces = list(match(OLD, new))
    assert literal_bytes(pieces) < new.head_bytes + len(payload) - sum(w.length_bytes for w in OLD.constants) + 100
    delta, _ = remade(OLD, new)
    assert is_worth(len(delta), len(new.data))


def test_constants_with_new_names_go_by_form_and_order() -> None:
    payload = payload_of(OLD)
    name = max(read_payload(payload).weights, key=lambda weight: weight.length_bytes).name.encode()
    renamed = payload.replace(name, name[::-1])
    assert renamed != payload
    new = repacked(OLD, 2, model__tflite=renamed)
    assert {w.name for w in OLD.constants} != {w.name for w in new.constants}
    pieces = list(match(OLD, new))
    assert literal_bytes(pieces) <= new.head_bytes + len(name)
    remade(OLD, new)


def test_an_unrelated_payload_is_not_subtracted() -> None:
    other = bytes(reversed(payload_of(OLD)))
    new = repacked(OLD, 2, model__tflite=other)
    pieces = list(match(OLD, new))
    assert Piece(len(other), None) in pieces
    remade(OLD, new)


def test_a_payload_that_cannot_be_read_goes_by_position() -> None:
    old = repacked(OLD, 1, model__tflite=b"\xff" * 5000 + b"a" * 1000)
    new = repacked(OLD, 2, model__tflite=b"\xff" * 5000 + b"b" * 1000)
    delta, _ = remade(old, new)
    assert old.constants == new.constants == ()
    assert is_worth(len(delta), len(new.data))


def test_a_blob_that_was_renamed_is_found_by_its_bytes() -> None:
    old = repacked(OLD, 1, golden__bin=OLD.data[:9000])
    new = repacked(OLD, 2, profile__json=OLD.data[:9000])
    piece = next(piece for piece in match(old, new) if piece.length == 9000)
    assert piece.source == old.starts["golden.bin"]
    remade(old, new)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_063), st.binary(min_size=1, max_size=40)), max_size=8))
def test_whatever_was_changed_the_target_is_made(edits: list[tuple[int, bytes]]) -> None:
    payload = payload_of(OLD)
    for place, data in edits:
        payload = payload[:place] + data + payload[place + len(data) :]
    remade(OLD, repacked(OLD, 2, model__tflite=payload))


@pytest.mark.parametrize(("delta_bytes", "is_enough"), [(0, True), (600, True), (601, False), (1200, False)])
def test_two_fifths_must_be_saved(delta_bytes: int, is_enough: bool) -> None:
    assert is_worth(delta_bytes, 1000) is is_enough
