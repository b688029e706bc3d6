"""Sources and a real data process: where the bundle says what raw frames are, the device prepares them."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from feed_crew import eventually, feeding, lines, put
from numpy.typing import NDArray
from runtime_bundles import MadeBundle, make_bundle, with_section
from serving_runtime import serving

from dsops.bundle import Bundle
from dsops.forms import Form
from dsops.manifest import Preprocessing
from dsops_agent.runtime.channel import Channel
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.sent import Sent

pytestmark = pytest.mark.integration
SECTION = Preprocessing(
    input="image",
    layout="NHWC",
    color="GRAY",
    raw="UINT8",
    raw_color="RGB",
    resize="letterbox",
    interpolation="area",
    fill=99.0,
    scale=(1 / 255,),
)
WIDE = np.random.default_rng(8).integers(0, 255, (12, 48, 3), np.uint8)
"""Blue first, as OpenCV has it: four times as wide as high."""


def scores(bundle: MadeBundle, raw: NDArray[np.uint8]) -> list[list[float]]:
    """What a bundle says of raw frames, red first, when it is asked in this process."""
    served = load_bundle(Bundle.open(bundle.path), bundle.digest, 1)
    found: list[list[float]] = served.infer(served.prepared({"image": Sent(Form.RAW, raw)})).outputs[0].tolist()
    return found


def told(answers: Path) -> NDArray[np.float64]:
    """The scores that a sink took."""
    return np.array([line["outputs"]["scores"] for line in lines(answers)])


def bundle(folder: Path, release: int = 1, **change: object) -> MadeBundle:
    section = SECTION.model_copy(update=change)
    return with_section(make_bundle(folder, release=release, int8=False), section)


def activate(channel: Channel, made: MadeBundle) -> None:
    fields = {"model": "compass", "digest": made.digest, "release": made.manifest.release}
    channel.call("activate", path=str(made.path), **fields)


def put_picture(inbox: Path, name: str) -> None:
    cv2.imwrite(str(inbox / f".{name}"), WIDE)
    (inbox / f".{name}").rename(inbox / name)


def test_pictures_are_fitted_as_the_manifest_says(short_path: Path, tmp_path: Path) -> None:
    inbox, answers = tmp_path / "in", tmp_path / "answers.jsonl"
    inbox.mkdir()
    first, second = bundle(tmp_path), bundle(tmp_path, 2, scale=(0.25 / 255,), offset=(0.5,), fill=0.0)
    rgb = np.ascontiguousarray(WIDE[None, ..., ::-1])
    expected, later = scores(first, rgb), scores(second, rgb)
    stretched = cv2.resize(WIDE, (4, 4), interpolation=cv2.INTER_AREA)
    assert np.abs(np.subtract(expected, scores(first, stretched[None, ..., ::-1]))).max() > 0.01, "it tells nothing"
    assert np.abs(np.subtract(expected, later)).max() > 0.01, "it tells nothing"
    source = {"name": "inbox", "model": "compass", "directory": {"path": str(inbox), "settle_s": 0.05}}
    sink = {"name": "kept", "file": {"path": str(answers)}}
    with (
        serving(short_path, first) as process,
        feeding(short_path, tmp_path / "feed", [source], [sink]) as feed,
    ):
        put_picture(inbox, "a.png")
        eventually(lambda: len(lines(answers)) == 1)
        put(inbox, "b.npy", rgb)
        eventually(lambda: len(lines(answers)) == 2)
        activate(process.channel, second)
        put_picture(inbox, "c.png")
        eventually(lambda: len(lines(answers)) == 3)
        assert feed.source("inbox").failures == 0
    assert told(answers) == pytest.approx(np.array([*expected, *expected, *later]), abs=1e-6)


def test_a_camera_sends_what_it_sees(short_path: Path, tmp_path: Path) -> None:
    video, answers = tmp_path / "v.avi", tmp_path / "answers.jsonl"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 25, (48, 16))
    for _ in range(5):
        writer.write(np.repeat(WIDE, 2, axis=0)[:16])
    writer.release()
    capture = cv2.VideoCapture(str(video))
    seen = capture.read()[1]
    capture.release()
    made = bundle(tmp_path)
    [expected] = scores(made, np.ascontiguousarray(seen[None, ..., ::-1]))
    source = {"name": "door", "model": "compass", "rate_hz": 10, "camera": {"device": str(video), "retry_s": 0.2}}
    with (
        serving(short_path, made),
        feeding(short_path, tmp_path / "feed", [source], [{"name": "kept", "file": {"path": str(answers)}}]) as feed,
    ):
        eventually(lambda: lines(answers))
        assert feed.source("door").failures == 0
    assert lines(answers)[0]["outputs"]["scores"] == pytest.approx(expected, abs=1e-6)


def test_what_is_prepared_for_one_release_is_not_asked_of_the_next(short_path: Path, tmp_path: Path) -> None:
    """Without raw frames in the manifest a source prepares pictures itself, as the release that answers says."""
    inbox, answers = tmp_path / "in", tmp_path / "answers.jsonl"
    inbox.mkdir()
    unsaid = {"raw": "", "raw_color": "", "interpolation": "", "fill": 0.0}
    first, second = bundle(tmp_path, **unsaid), bundle(tmp_path, 2, **unsaid, scale=(0.25 / 255,), offset=(0.5,))
    rgb = np.ascontiguousarray(WIDE[None, ..., ::-1])
    alike = {"fill": 0.0, "interpolation": "area"}
    (tmp_path / "raw").mkdir()
    expected = scores(bundle(tmp_path / "raw", **alike), rgb)
    later = scores(bundle(tmp_path / "raw", 2, **alike, scale=(0.25 / 255,), offset=(0.5,)), rgb)
    source = {"name": "inbox", "model": "compass", "directory": {"path": str(inbox), "settle_s": 0.05}}
    sink = {"name": "kept", "file": {"path": str(answers)}}
    with (
        serving(short_path, first) as process,
        feeding(short_path, tmp_path / "feed", [source], [sink]) as feed,
    ):
        for count, name in enumerate(("a.png", "b.png"), 1):  # what the model takes is known by the second one
            put_picture(inbox, name)
            eventually(lambda count=count: len(lines(answers)) == count)
        activate(process.channel, second)
        put_picture(inbox, "c.png")
        eventually(lambda: len(lines(answers)) == 3)
        assert feed.source("inbox").failures == 0
    assert [line["release"] for line in lines(answers)] == [1, 1, 2]
    assert told(answers) == pytest.approx(np.array([*expected, *expected, *later]), abs=1e-5)


def test_raw_frames_on_standard_input(short_path: Path, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    made = bundle(tmp_path)
    grey = np.repeat(WIDE[:4, :4, :1], 3, axis=2)
    config.write_text(f'device = "cam-1"\nstate = "state"\nrun = "{short_path}"\n[trust]\nroot = "1.root.json"\n')
    command = [sys.executable, "-m", "dsops_agent", "feed", "--config", str(config), "--stdin", "compass"]
    half = json.dumps((grey / 510).tolist())
    with serving(short_path, made):
        raw = subprocess.run(command, input=json.dumps(grey.tolist()).encode(), capture_output=True, check=True)
        wrong = subprocess.run(command, input=half.encode(), capture_output=True, check=True)
    assert json.loads(raw.stdout)["outputs"]["scores"] == pytest.approx(scores(made, grey[None])[0], abs=1e-6)
    assert "no whole number" in json.loads(wrong.stdout)["message"]
