"""The served model, its golden inputs, and the change from one to the next."""

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import CLASSES, LABELS, SHAPE, MadeBundle, frames, make_bundle, tflite
from runtime_watches import Witness

from dsops.bundle import Bundle, encode_bundle, sha256_hex
from dsops.errors import DigestMismatch, GoldenMismatch, InvalidInput, InvalidModel, MalformedBundle, NotFound
from dsops_agent.runtime.answer import named_choice
from dsops_agent.runtime.engine import MAX_FRAMES, ServedModel, load_bundle
from dsops_agent.runtime.golden import check_golden
from dsops_agent.runtime.instances import Held
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.swap import Models


def load(bundle: MadeBundle) -> ServedModel:
    return load_bundle(Bundle.open(bundle.path), bundle.digest, threads=1)


def models() -> Models:
    return Models(1, lambda served: Witness())


def activate(where: Models, bundle: MadeBundle) -> None:
    where.activate(bundle.manifest.model, bundle.path, bundle.digest, bundle.manifest.release)


def test_the_manifest_is_hashed_with_the_bytes_that_are_loaded(tmp_path: Path) -> None:
    right = make_bundle(tmp_path)
    data = right.path.read_bytes()
    forged = right.manifest.model_copy(update={"labels": LABELS[::-1]})
    blobs = {blob.name: Bundle.open(right.path).read(blob.name) for blob in forged.blobs}
    right.path.write_bytes(encode_bundle(forged, blobs))
    opened = Bundle.open(right.path)
    right.path.write_bytes(data)  # put back before anybody hashes the file
    with pytest.raises(DigestMismatch, match="not the one that was asked for"):
        load_bundle(opened, right.digest, 1)


def test_a_payload_is_no_mapped_file_that_can_be_cut_short(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    served = load(bundle)
    bundle.path.write_bytes(b"")
    assert served.infer({"image": frames(4)}).choices.tolist() == [0, 1, 2, 3]
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("int8", [True, False])
def test_frames_are_answered_one_by_one(tmp_path: Path, int8: bool) -> None:
    served = load(make_bundle(tmp_path, int8=int8))
    answer = served.infer({"image": frames(10)})
    assert answer.scores.shape == answer.outputs[0].shape == (10, CLASSES)
    assert answer.scores.dtype == np.float32
    assert answer.scores.sum(axis=1) == pytest.approx(np.ones(10), abs=0.02)
    assert answer.choices.tolist() == [i % CLASSES for i in range(10)]
    assert len(answer.latency_us) == 10
    assert min(answer.latency_us) > 0


def test_stored_input_is_taken_and_told_as_real_values(tmp_path: Path) -> None:
    served = load(make_bundle(tmp_path))
    stored = np.full((1, *SHAPE), 127, np.int8)
    assert served.infer({"image": stored}).scores.shape == (1, CLASSES)
    assert served.real_frames(0, stored) == pytest.approx(np.ones((1, *SHAPE)))


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((1, 4, 4), np.float32), r"shape \[n, 4, 4, 1\]"),
        (np.zeros((0, *SHAPE), np.float32), "n is 1 to"),
        (np.zeros((MAX_FRAMES + 1, *SHAPE), np.float32), "n is 1 to"),
        (np.zeros((1, *SHAPE), np.float64), "FP32 or INT8"),
        (np.full((1, *SHAPE), np.nan, np.float32), "not finite"),
        (np.full((1, *SHAPE), np.inf, np.float32), "not finite"),
    ],
    ids=["shape", "none", "many", "type", "nan", "inf"],
)
def test_input_that_does_not_fit_is_refused(tmp_path: Path, rows: Array, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        load(make_bundle(tmp_path)).infer({"image": rows})


def test_right_golden_inputs_pass(tmp_path: Path) -> None:
    assert len(check_golden(load(make_bundle(tmp_path)))) == 8


def test_labels_in_another_order_are_found(tmp_path: Path) -> None:
    swapped = (LABELS[1], LABELS[0], *LABELS[2:])
    with pytest.raises(GoldenMismatch, match="4 of 8") as caught:
        check_golden(load(make_bundle(tmp_path, labels=swapped)))
    assert caught.value.why == "input 0: taken for 'east', expected 'north'"
    assert caught.value.details == {"differing": 4, "of": 8}


def test_scores_outside_the_tolerance_are_found(tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch, match="8 of 8") as caught:
        check_golden(load(make_bundle(tmp_path, score_shift=0.08)))
    assert "0.05 is allowed" in caught.value.why
    check_golden(load(make_bundle(tmp_path, score_shift=0.03)))


def test_a_payload_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="the payload's input 'image' is float32"):
        load(make_bundle(tmp_path, payload=tflite(int8=False)))


def test_a_model_without_labels_is_checked_by_its_scores(tmp_path: Path) -> None:
    served = load(make_bundle(tmp_path, labels=()))
    check_golden(served)
    assert named_choice(served.manifest, 3) == "3"


def test_activation_checks_what_it_was_asked_for(tmp_path: Path) -> None:
    where, bundle = models(), make_bundle(tmp_path)
    with pytest.raises(DigestMismatch, match="not the one"):
        where.activate("compass", bundle.path, sha256_hex(b"other"), 1)
    with pytest.raises(MalformedBundle, match="holds compass 1"):
        where.activate("compass", bundle.path, bundle.digest, 2)
    with pytest.raises(MalformedBundle, match="holds compass 1"):
        where.activate("sundial", bundle.path, bundle.digest, 1)
    with pytest.raises(MalformedBundle, match="cannot read"):
        where.activate("compass", tmp_path / "absent", bundle.digest, 1)
    assert where.names() == []


def test_a_damaged_blob_is_found_though_the_file_has_the_digest_asked_for(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    data = bytearray(bundle.path.read_bytes())
    data[-1] ^= 1
    bundle.path.write_bytes(bytes(data))
    with pytest.raises(DigestMismatch, match="blob"):
        models().activate("compass", bundle.path, sha256_hex(bytes(data)), 1)


def test_deactivation_and_names(tmp_path: Path) -> None:
    where = models()
    activate(where, make_bundle(tmp_path))
    activate(where, make_bundle(tmp_path, model="sundial"))
    assert where.names() == ["compass", "sundial"]
    where.deactivate("compass")
    assert [serving.model.name for serving in where.all()] == ["sundial"]
    with pytest.raises(NotFound, match="compass"):
        where.deactivate("compass")
    with pytest.raises(NotFound) as caught:
        where.get("compass")
    assert "sundial" in caught.value.hint


def test_a_refused_bundle_leaves_the_old_one(tmp_path: Path) -> None:
    where, good = models(), make_bundle(tmp_path)
    activate(where, good)
    with pytest.raises(InvalidModel):
        activate(where, make_bundle(tmp_path, release=2, payload=b"no model"))
    assert where.get("compass").model.digest == good.digest


def test_a_request_in_flight_ends_on_the_old_model_which_is_then_freed(tmp_path: Path) -> None:
    where = models()
    activate(where, make_bundle(tmp_path))
    old = where.get("compass")
    loaded = weakref.ref(old.model.loaded)
    answers: list[int] = []
    entered = threading.Event()

    def ask(serving_of: Callable[[], ServedModel]) -> None:
        served = serving_of()
        entered.set()
        answers.append(int(served.infer({"image": frames(1)}).choices[0]))

    held = Held(old.model.instances)
    held.__enter__()  # this request is in flight: it waits for the instance
    asker = threading.Thread(target=ask, args=(lambda: where.get("compass").model,))
    asker.start()
    assert entered.wait(10)
    activate(where, make_bundle(tmp_path, release=2))
    assert where.get("compass").model.release == 2
    assert not answers
    held.__exit__(None, None, None)
    asker.join(10)
    assert answers == [0]
    del old, asker, held
    gc.collect()
    assert loaded() is None
