"""Every source and every sink with a real data process, broker, video and program."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from feed_crew import Broker, Feed, Listener, eventually, feeding, lines, put
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from runtime_bundles import LABELS, frames, make_bundle
from serving_runtime import serving
from source_authority import TestAuthority

pytestmark = pytest.mark.integration
ROWS = frames(12, seed=2, noise=0.02)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.kill()


def labels(found: list[dict]) -> list[str]:
    return [line["outputs"]["label"] for line in found]


def test_a_folder_into_a_file(short_path: Path, tmp_path: Path) -> None:
    inbox, answers = tmp_path / "in", tmp_path / "answers.jsonl"
    inbox.mkdir()
    made = make_bundle(tmp_path, release=3)
    source = {
        "name": "inbox",
        "model": "compass",
        "outputs": ["label"],
        "dtype": "float32",
        "directory": {"path": str(inbox), "settle_s": 0.1},
    }
    sink = {"name": "kept", "file": {"path": str(answers)}}
    put(inbox, "early.npy", ROWS[:3])
    with feeding(short_path, tmp_path / "feed", [source], [sink]) as feed:
        eventually(lambda: "waits for model compass" in str(feed.status.sources))  # no runtime is there yet
        with serving(short_path, made):
            eventually(lambda: len(lines(answers)) == 3)
            picture = (ROWS[1].reshape(4, 4) * 255).round().astype(np.uint8)
            cv2.imwrite(str(inbox / ".p.png"), cv2.resize(picture, (64, 64), interpolation=cv2.INTER_NEAREST))
            (inbox / ".p.png").rename(inbox / "p.png")
            eventually(lambda: len(lines(answers)) == 4)
            (inbox / "two.raw").write_bytes(ROWS[2:4].astype("<f4").tobytes())
            eventually(lambda: len(lines(answers)) == 6)
            bomb = cv2.imencode(".png", np.zeros((5000, 5000), np.uint8))[1].tobytes()  # 25 million pixels in 25 KB
            (inbox / "bomb.png").write_bytes(bomb)
            eventually((inbox / "failed" / "bomb.png").exists)
            (inbox / "bad.jpg").write_bytes(b"\xff\xd8\xff" + os.urandom(500))
            eventually((inbox / "failed" / "bad.jpg").exists)
            eventually(lambda: feed.source("inbox").failures == 2)
            counts = feed.source("inbox")
            assert (counts.frames, counts.answers) == (6, 6)
    found = lines(answers)
    assert labels(found) == ["north", "east", "south", "east", "south", "west"]
    assert {(line["release"], line["digest"], line["device"]) for line in found} == {(3, made.digest, "cam-1")}
    assert sorted(path.name for path in (inbox / "done").iterdir()) == ["early.npy", "p.png", "two.raw"]
    assert not list((tmp_path / "feed" / "sources" / "inbox").iterdir())


@pytest.mark.slow
def test_killed_again_and_again_no_file_is_lost_and_none_is_answered_twice(short_path: Path, tmp_path: Path) -> None:
    inbox, answers = tmp_path / "in", tmp_path / "answers.jsonl"
    inbox.mkdir()
    source = {"name": "inbox", "model": "compass", "directory": {"path": str(inbox), "settle_s": 0.05}}
    sink = {"name": "kept", "file": {"path": str(answers)}}
    with (
        serving(short_path, make_bundle(tmp_path)) as runtime,
        feeding(short_path, tmp_path / "feed", [source], [sink]) as feed,
    ):
        for turn in range(5):
            before = len(lines(answers))
            for number in range(60):
                put(inbox, f"{turn}-{number}.npy", ROWS[number % 12])
            eventually(lambda before=before: len(lines(answers)) > before)
            feed.kill()
            feed.start()
        eventually(lambda: len(lines(answers)) == 300)
        eventually(lambda: len(list((inbox / "done").iterdir())) == 300)
        assert runtime.child is not None
        assert runtime.child.poll() is None  # nothing of that concerned the data process
    names = [line["id"].split("/")[1].partition(".npy")[0] for line in lines(answers)]
    assert sorted(names) == sorted(f"{turn}-{number}" for turn in range(5) for number in range(60))


def test_a_video_as_a_camera_and_the_newest_frame(short_path: Path, tmp_path: Path) -> None:
    video, answers = tmp_path / "v.avi", tmp_path / "answers.jsonl"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 50, (64, 64))
    picture = (ROWS[3].reshape(4, 4) * 255).round().astype(np.uint8)
    for _ in range(20):
        writer.write(cv2.cvtColor(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_NEAREST), cv2.COLOR_GRAY2BGR))
    writer.release()
    hidden = video.with_suffix(".later")
    video.rename(hidden)
    source = {"name": "door", "model": "compass", "rate_hz": 30, "camera": {"device": str(video), "retry_s": 0.2}}
    sink = {"name": "kept", "file": {"path": str(answers)}}
    with (
        serving(short_path, make_bundle(tmp_path)),
        feeding(short_path, tmp_path / "feed", [source], [sink]) as feed,
    ):
        eventually(lambda: "is not there" in str(feed.status.sources))
        hidden.rename(video)
        eventually(lambda: len(lines(answers)) > 25)  # more than one run of it: it was opened again at its end
        counts = feed.source("door")
        assert counts.failures == 0
    assert set(labels(lines(answers))) == {"west"}
    assert len({line["id"] for line in lines(answers)}) == len(lines(answers))


@pytest.mark.slow
def test_a_driver_that_hangs_ends_the_process_which_says_why(short_path: Path, tmp_path: Path) -> None:
    device = tmp_path / "video0"
    os.mkfifo(device)  # OpenCV opens it, and waits in the kernel for somebody to write
    source = {"name": "door", "model": "compass", "camera": {"device": str(device), "silent_s": 1}}
    feed = Feed(short_path, tmp_path / "feed", [source], [])
    try:
        assert feed.process.wait(60) != 0
    finally:
        feed.kill()
    assert f"camera {device} says nothing for 1 s" in feed.log.read_text()


@pytest.mark.slow
def test_topics_in_and_a_topic_out(short_path: Path, tmp_path: Path, broker: Broker) -> None:
    common = {"model": "compass", "outputs": ["label"]}
    as_json = {"name": "j", **common, "mqtt": {"broker": broker.address, "topic": "sensors/+/json"}}
    as_raw = {
        "name": "r",
        **common,
        "dtype": "uint8",
        "scale": 1 / 255,
        "mqtt": {"broker": broker.address, "topic": "sensors/raw", "format": "raw"},
    }
    sink = {"name": "out", "mqtt": {"broker": broker.address, "topic": "answers/{source}/{model}"}}
    listener = Listener(broker, "answers/#")
    with (
        serving(short_path, make_bundle(tmp_path)),
        feeding(short_path, tmp_path / "feed", [as_json, as_raw], [sink]) as feed,
    ):

        def answered(payload: bytes, topic: str, source: str, *labels: str) -> None:
            before = len(listener.heard)

            def said() -> bool:  # said again until the source is connected; what was said before may be answered late
                told = [(name, answer["outputs"]["label"]) for name, answer in listener.heard[before:]]
                own = [label for name, label in told if name == f"answers/{source}/compass"]
                if any(tuple(own[at : at + len(labels)]) == labels for at in range(len(own))):
                    return True
                listener.say(topic, payload)
                return False

            eventually(said)

        answered(json.dumps(ROWS[0].tolist()).encode(), "sensors/a/json", "j", "north")
        raw = (ROWS[1:3] * 255).round().astype(np.uint8).tobytes()
        answered(raw, "sensors/raw", "r", "east", "south")
        listener.say("sensors/a/json", b"[1, 2]")
        eventually(lambda: feed.source("j").failures == 1)
        assert "do not fit" in feed.source("j").problem
        broker.kill()
        eventually(lambda: "lost" in feed.source("j").problem)
        broker.start()
        eventually(lambda: not feed.source("j").problem)
        eventually(lambda: not feed.sink("out").problem)
        answered(json.dumps(ROWS[3].tolist()).encode(), "sensors/b/json", "j", "west")
    listener.close()


def test_a_stream_of_samples_in_windows(short_path: Path, tmp_path: Path, broker: Broker) -> None:
    answers = tmp_path / "answers.jsonl"
    source = {
        "name": "mic",
        "model": "compass",
        "outputs": ["label"],
        "window": 4,
        "shape": [4, 1],
        "mqtt": {"broker": broker.address, "topic": "mic", "format": "raw", "queue": 1000},
    }
    sink = {"name": "kept", "file": {"path": str(answers)}}
    listener = Listener(broker, "nothing")
    with (
        serving(short_path, make_bundle(tmp_path)),
        feeding(short_path, tmp_path / "feed", [source], [sink]) as feed,
    ):
        eventually(lambda: (listener.say("mic", b""), feed.source("mic").failures)[1])
        stream = ROWS.astype("<f4").ravel().tobytes()
        for at in range(0, len(stream), 48):
            listener.say("mic", stream[at : at + 48])
        eventually(lambda: len(lines(answers)) == 12)
    assert labels(lines(answers)) == [LABELS[row % 4] for row in range(12)]
    listener.close()


@pytest.mark.slow
def test_a_replay_into_a_program_that_is_slow(short_path: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", rows=ROWS)
    program = tmp_path / "program.py"
    program.write_text("import sys, time; time.sleep(0.5); open(sys.argv[1], 'ab').write(sys.stdin.buffer.read())")
    source = {
        "name": "trial",
        "model": "compass",
        "rate_hz": 200,
        "replay": {"path": str(tmp_path / "rows.npz"), "repeat": True},
    }
    slow = {"name": "slow", "queue": 2, "command": {"program": [sys.executable, str(program), str(tmp_path / "out")]}}
    kept = {"name": "kept", "file": {"path": str(tmp_path / "answers.jsonl")}}
    with (
        serving(short_path, make_bundle(tmp_path)) as runtime,
        feeding(short_path, tmp_path / "feed", [source], [slow, kept]) as feed,
    ):
        eventually(lambda: feed.sink("slow").answers >= 2)
        eventually(lambda: feed.source("trial").answers > 100)
        sinks = feed.status.sinks
        assert sinks["slow"].drops > 0
        assert (sinks["kept"].drops, sinks["kept"].failures) == (0, 0)
        os.kill(runtime.pid, signal.SIGKILL)
        eventually(lambda: "waits for model compass" in feed.source("trial").problem)
    assert lines(tmp_path / "out")[0]["id"].startswith("trial/0-")
    found = labels(lines(tmp_path / "answers.jsonl"))
    assert found[:24] == [LABELS[row % 12 % 4] for row in range(24)]


def test_a_broker_that_asks_for_a_name_and_a_password(short_path: Path, tmp_path: Path) -> None:
    inbox, password, users = tmp_path / "in", tmp_path / "password", tmp_path / "users"
    inbox.mkdir()
    password.write_text("wrong\n")
    digest = hashlib.pbkdf2_hmac("sha512", b"secret", b"salt" * 3, 101)  # as mosquitto_passwd writes it
    users.write_text(f"feeder:$7$101${b64encode(b'salt' * 3).decode()}${b64encode(digest).decode()}\n")
    users.chmod(0o600)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {users}", "user root")
    source = {"name": "inbox", "model": "compass", "directory": {"path": str(inbox), "settle_s": 0.05}}
    topic = {"broker": broker.address, "topic": "t", "user": "feeder", "password": str(password)}
    sink = {"name": "out", "mqtt": topic}
    put(inbox, "a.npy", ROWS[0])
    try:
        with (
            serving(short_path, make_bundle(tmp_path)),
            feeding(short_path, tmp_path / "feed", [source], [sink]) as feed,
        ):
            eventually(lambda: "refused" in feed.sink("out").problem)
            eventually((inbox / "done" / "a.npy").exists)  # a sink that is away stops no source
            feed.kill()
            password.write_text("secret\n")
            feed.start()
            eventually(lambda: feed.sink("out").answers == 1)  # and what it did not take outlives a restart
    finally:
        broker.kill()


def test_brokers_with_tls_and_of_another_authority(short_path: Path, tmp_path: Path) -> None:
    ours, others = TestAuthority(tmp_path / "ours"), TestAuthority(tmp_path / "others")
    tls = (f"certfile {ours.certificate}", f"keyfile {ours.key}", "user root", "allow_anonymous true")
    broker = Broker(tmp_path, *tls)
    common = {"model": "compass", "outputs": ["label"]}
    topic = {"broker": broker.address, "topic": "frames"}
    answers = tmp_path / "answers.jsonl"
    sources = [
        {"name": "good", **common, "mqtt": {**topic, "ca": str(ours.ca)}},
        {"name": "wary", **common, "mqtt": {**topic, "ca": str(others.ca)}},
    ]
    sinks = [
        {"name": "out", "mqtt": {"broker": broker.address, "topic": "frames/answers", "ca": str(ours.ca)}},
        {"name": "kept", "file": {"path": str(answers)}},
    ]
    client = Client(CallbackAPIVersion.VERSION2)
    client.tls_set(str(ours.ca))
    try:
        with (
            serving(short_path, make_bundle(tmp_path)),
            feeding(short_path, tmp_path / "feed", sources, sinks) as feed,
        ):
            client.connect("127.0.0.1", broker.port)
            client.loop_start()

            def said() -> bool:
                client.publish("frames", json.dumps(ROWS[0].tolist()))
                return bool(lines(answers))

            eventually(said)
            eventually(lambda: feed.sink("out").answers > 0)
            eventually(lambda: "cannot be reached" in feed.source("wary").problem)
            assert feed.source("wary").frames == 0
            client.loop_stop()
    finally:
        broker.kill()


@pytest.mark.slow
def test_two_of_one_state_folder_take_turns(short_path: Path, tmp_path: Path) -> None:
    inbox, state = tmp_path / "in", tmp_path / "feed"
    inbox.mkdir()
    source = {"name": "inbox", "model": "compass", "directory": {"path": str(inbox)}}
    with serving(short_path, make_bundle(tmp_path)), feeding(short_path, state, [source], []) as first:
        put(inbox, "a.npy", ROWS[0])
        eventually(lambda: first.source("inbox").frames == 1)
        with feeding(short_path, state, [source], []) as second:
            eventually(lambda: "waits until" in second.log.read_text())
            assert second.status.pid == 0, "both work at once"
            first.end()
            eventually(lambda: second.status.pid)
            assert second.source("inbox").frames == 0, "a frame was taken by both"
            put(inbox, "b.npy", ROWS[1])
            eventually(lambda: second.source("inbox").frames == 1)


@pytest.mark.slow
def test_standard_input_goes_on_when_the_inference_process_is_started_again(short_path: Path, tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        f'device = "cam-1"\nstate = "{tmp_path}"\nrun = "{short_path}"\n[trust]\nroot = "1.root.json"\n'
    )
    made, log = make_bundle(tmp_path, release=3), tmp_path / "feed.log"
    command = [sys.executable, "-m", "dsops_agent", "feed", "--stdin", "compass", "--config", tmp_path / "agent.toml"]
    with (
        log.open("wb") as err,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True, bufsize=1
        ) as feed,
    ):
        assert feed.stdin
        assert feed.stdout
        try:
            for number in range(2):  # the first is asked before there is any process, the second while it is away
                feed.stdin.write(json.dumps(ROWS[number].reshape(4, 4, 1).tolist()) + "\n")
                eventually(lambda number=number: log.read_text().count("waits for the model") > number)
                with serving(short_path, made):
                    assert json.loads(feed.stdout.readline())["id"] == f"stdin/{number}"
            feed.stdin.close()
            assert feed.wait(60) == 0
        finally:
            feed.kill()
