"""What of a frame leaves the device: nothing unless allowed, never what is to be taken out, and only for whom it is."""

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import LABELS, SHAPE, frames, make_bundle

from dsops.api.v1 import samples_pb2
from dsops.bundle import Bundle
from dsops.clock import ManualClock
from dsops.errors import NotRedacted
from dsops.sample_sealing import key_id, new_private_key, private_key, public_text, unseal
from dsops_agent.runtime.answer import Exchange
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.later import Later
from dsops_agent.runtime.records import Kind, Reason
from dsops_agent.runtime.redaction import blank, run_program
from dsops_agent.runtime.sample_budgets import SampleBudgets
from dsops_agent.runtime.sample_settings import SampleSettings
from dsops_agent.runtime.samples import Sampling, at_once, schema_of
from dsops_agent.runtime.watch import ModelWatch
from dsops_agent.runtime.wishes import SampleWish, Wishes

ALL = {"random_rate": 0.0, "min_gap_s": 0.0, "period_s": 0.0}
INVERT = (
    sys.executable,
    "-c",
    "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(bytes(255 - b for b in d))",
)


class Camera:
    """A device's watch under some settings, and what leaves it."""

    def __init__(
        self,
        folder: Path,
        settings: SampleSettings,
        wishes: Wishes | None = None,
        later: Callable[[Callable[[], None]], bool] = at_once,
    ) -> None:
        bundle = make_bundle(folder, release=3)
        self.served = load_bundle(Bundle.open(bundle.path), bundle.digest, 1)
        self.records: list[bytes] = []
        self.lost: list[Reason] = []
        clock = ManualClock()
        budgets = SampleBudgets(settings, clock)
        sampling = Sampling(settings, lambda: 0.5, budgets, later, wishes, self.lost.append)
        self.watch = ModelWatch(self.served, sampling, self._put, clock, drift_enabled=True)

    def _put(self, kind: Kind, data: bytes, _urgent: bool) -> None:
        if kind is Kind.SAMPLES:
            self.records.append(data)

    def see(self, count: int = 1) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        rows = frames(count, noise=0.01).astype(np.float32)
        inputs = {"image": rows}
        self.watch.observe([Exchange(inputs, self.served.infer(inputs), "r-1")])
        return rows

    def samples(self) -> list[samples_pb2.SampleRecord]:
        return [samples_pb2.SampleRecord.FromString(data) for data in self.records]


def test_inputs_stay_on_the_device_unless_they_are_allowed_to_leave(tmp_path: Path) -> None:
    camera = Camera(tmp_path, SampleSettings.model_validate(ALL))
    rows = camera.see()
    (sample,) = camera.samples()
    assert (sample.input.datatype, sample.input.data, sample.redaction) == ("", b"", "")
    assert rows.tobytes() not in camera.records[0]
    assert len(sample.output.data) == 4 * len(LABELS)
    assert sample.predicted == LABELS[0]


def test_every_sample_tells_its_schema_and_figures(tmp_path: Path) -> None:
    camera = Camera(tmp_path, SampleSettings.model_validate(ALL))
    camera.see()
    (sample,) = camera.samples()
    scores = np.frombuffer(sample.output.data, "<f4")
    assert sample.scores["confidence"] == pytest.approx(scores.max(), rel=1e-5)
    assert sample.scores["margin"] == pytest.approx(np.sort(scores)[-1] - np.sort(scores)[-2], rel=1e-4)
    assert {"entropy", "input_mean", "input_std"} <= sample.scores.keys()
    assert sample.schema == schema_of(camera.served.manifest)
    other = camera.served.manifest.model_copy(update={"labels": ("a", "b", "c", "d")})
    assert len(sample.schema) == 64
    assert schema_of(other) != sample.schema
    assert schema_of(camera.served.manifest.model_copy(update={"release": 9})) == sample.schema


def test_regions_are_blank_before_a_frame_is_kept(tmp_path: Path) -> None:
    settings = SampleSettings.model_validate(ALL | {"inputs": True, "redact": [(0.0, 0.0, 0.5, 1.0)]})
    camera = Camera(tmp_path, settings)
    rows = camera.see()
    (sample,) = camera.samples()
    kept = np.frombuffer(sample.input.data, "<f4").reshape(1, *SHAPE)
    half = SHAPE[1] // 2
    assert rows[:, :, :half].any()
    assert not kept[:, :, :half].any()
    assert np.array_equal(kept[:, :, half:], rows[:, :, half:])
    assert sample.redaction == "regions"


def test_a_pixel_that_a_region_touches_is_of_it_and_channels_may_come_first() -> None:
    picture = np.ones((1, 10, 10, 3), np.uint8)
    left = blank(picture, [(0.01, 0.0, 0.11, 0.05)])
    assert left.sum() == picture.sum() - 2 * 3
    assert picture.all(), "the frame of others was changed"
    first = blank(np.ones((1, 3, 10, 10), np.uint8), [(0.0, 0.0, 0.1, 1.0)], channels_first=True)
    assert not first[:, :, :, 0].any()
    assert first[:, :, :, 1:].all()
    with pytest.raises(NotRedacted, match="2 axes"):
        blank(np.ones((1, 5), np.float32), [(0.0, 0.0, 1.0, 1.0)])


def test_a_program_takes_out_what_must_not_leave(tmp_path: Path) -> None:
    camera = Camera(tmp_path, SampleSettings.model_validate(ALL | {"inputs": True, "redact_command": INVERT}))
    rows = camera.see()
    (sample,) = camera.samples()
    assert sample.input.data == bytes(255 - b for b in rows.tobytes())
    assert sample.redaction == Path(sys.executable).name


def test_the_program_is_told_what_the_frame_is() -> None:
    show = (sys.executable, "-c", "import os; print(os.environ['DSOPS_DATATYPE'], os.environ['DSOPS_SHAPE'], end='')")
    assert run_program(show, np.zeros((1, 10), np.uint8), "UINT8", 30.0).tobytes() == b"UINT8 1x10"


@pytest.mark.parametrize(
    "program",
    [
        ("/nowhere/at-all",),
        (sys.executable, "-c", "raise SystemExit(3)"),
        (sys.executable, "-c", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[1:])"),
        (sys.executable, "-c", "import time; time.sleep(60)"),
    ],
)
def test_without_its_answer_no_sample_is_kept(tmp_path: Path, program: tuple[str, ...]) -> None:
    settings = ALL | {"inputs": True, "redact_command": program, "redact_timeout_s": 0.5, "redaction": "faces"}
    camera = Camera(tmp_path, SampleSettings.model_validate(settings))
    camera.see()
    assert camera.records == []
    assert camera.lost == [Reason.UNREDACTED], "and it is counted"


def test_an_input_that_is_no_picture_has_no_regions_and_does_not_leave(tmp_path: Path) -> None:
    settings = ALL | {"inputs": True, "redact": [(0.0, 0.0, 0.5, 1.0)]}
    camera = Camera(tmp_path, SampleSettings.model_validate(settings))
    row = frames(1, noise=0.01).astype(np.float32)
    flat = Exchange({"image": row.reshape(1, -1)}, camera.served.infer({"image": row}), "")
    camera.watch.disputed(flat, {0: 1.0})
    camera.watch.finish()
    assert (camera.records, camera.lost) == ([], [Reason.UNREDACTED])


def test_a_sample_for_which_the_program_has_no_time_does_not_leave(tmp_path: Path) -> None:
    settings = SampleSettings.model_validate(ALL | {"inputs": True, "redact_command": INVERT})
    camera = Camera(tmp_path, settings, later=lambda _work: False)
    camera.see()
    assert (camera.records, camera.lost) == ([], [Reason.UNREDACTED])


def test_what_takes_long_is_done_by_a_thread_of_its_own_and_what_is_too_much_is_not_kept() -> None:
    later = Later(max_waiting=2)
    done: list[int] = []
    assert later.put(lambda: done.append(1))
    assert later.put(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert not later.put(lambda: done.append(3))
    later.stop()
    assert done == []
    assert not later.put(lambda: done.append(4))


def test_sealed_inputs_are_for_the_holder_of_the_key_only(tmp_path: Path) -> None:
    own = private_key(new_private_key())
    settings = ALL | {"inputs": True, "seal_to": public_text(own), "redact": [(0.0, 0.0, 0.25, 1.0)]}
    camera = Camera(tmp_path, SampleSettings.model_validate(settings))
    rows = camera.see()
    (sample,) = camera.samples()
    assert sample.input.data == b""
    assert (sample.input.datatype, list(sample.input.shape)) == ("FP32", [1, *SHAPE])
    assert sample.sealed.key_id == key_id(own.public_key())
    clear = unseal(sample.sealed.ciphertext, own, sample.digest, sample.time_us, "FP32", [1, *SHAPE])
    assert clear == blank(rows, [(0.0, 0.0, 0.25, 1.0)]).tobytes()
    assert rows[0, 0].tobytes() not in camera.records[0]


def test_frames_that_are_nearly_identical_are_one_sample(tmp_path: Path) -> None:
    """Four directions, again and again: whatever came first of each stays, and counts the others."""
    camera = Camera(tmp_path, SampleSettings.model_validate(ALL | {"inputs": True, "period_s": 60.0}))
    rows = frames(4, noise=0.0).astype(np.float32)
    inputs = {"image": np.concatenate([rows] * 10)}
    camera.watch.observe([Exchange(inputs, camera.served.infer(inputs), "")])
    assert camera.samples() == []
    camera.watch.finish()
    assert [sample.repeats for sample in camera.samples()] == [9] * 4


def test_who_asks_is_named_in_the_sample(tmp_path: Path) -> None:
    clock = ManualClock()
    wishes = Wishes(clock)
    camera = Camera(tmp_path, SampleSettings.model_validate(ALL | {"uncertain_below": 0.0, "inputs": True}), wishes)
    later = clock.now() + timedelta(hours=1)
    asked = [SampleWish(id="q-7", model="compass", count=3, until=later)]
    others = [
        SampleWish(id="q-8", model="other", count=3, until=later),
        SampleWish(id="q-9", model="compass", count=3, until=clock.now()),
    ]
    wishes.follow([*asked, *others])
    camera.watch.wish()
    camera.see(2)
    assert [(one.reason, one.requested_by) for one in camera.samples()] == [("request", "q-7")] * 2
    wishes.follow(asked)  # it is told again, as after a change of bundle
    camera.watch.wish()
    camera.see(4)
    assert len(camera.samples()) == 3, "what was kept before does not count"
    wishes.follow([SampleWish(id="q-10", model="compass", count=3, until=later)])
    camera.watch.wish()
    wishes.follow([])
    camera.watch.wish()
    camera.see(4)
    assert len(camera.samples()) == 3, "what nobody wants any more is kept"
