"""From samples of devices to a new model and back, with the controller killed again and again on the way.

Drift.md section 6, row 15: sample, two labellers, agreement, data set version, trigger, model; every step can be
repeated and goes on after kill -9.
"""

import json
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dsops.api.v1.samples_pb2 import SampleRecord, Tensor
from dsops.clock import SystemClock
from dsops.errors import ServerUnreachable
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.recipe import build_model
from dsops_controller.client import Access, Client
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.testing import DIGEST, interval, received, telemetry_batch
from dsops_controller.db.database import Database
from dsops_controller.demo.digits import splits
from dsops_controller.demo.prepare import prepare
from dsops_controller.server.config import load_config
from dsops_controller.trust import ceremony

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SAMPLES = 60
STREAM = (b"s" * 16).hex()
KILLS_S = (0.0, 0.02, 0.05, 0.1, 0.2)


class Trainer:
    """Takes requests at an address, and kills the controller before it answers the first one."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.on_first: Callable[[], None] = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append(json.loads(body))
                if len(outer.bodies) == 1:
                    outer.on_first()
                    return
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/train"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    made = Trainer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def stage(tmp_path: Path, trainer: Trainer, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A fleet with keys, 60 digits from two devices, and a webhook; the controller does not run yet."""
    made = request.getfixturevalue("new_controller")(tmp_path / "server")
    ceremony.init(tmp_path / "keys", made.folder, root_keys=3, threshold=2)
    ceremony.grant(tmp_path / "keys", made.folder, "digits")
    (made.folder / "hook.secret").write_text("s3cret-of-sixteen-and-more")
    hook = f'\n[retraining.webhook.trainer]\nurl = "{trainer.url}"\nsecret_file = "hook.secret"\ntimeout_s = 0.5\n'
    config = made.folder / "controller.toml"
    text = config.read_text().replace("webhook = {}\n", "").replace("look_s = 60.0", "look_s = 1.0")
    config.write_text(text + hook)
    frames = splits(1).train
    for device, first in (("cam-1", 0), ("cam-2", SAMPLES // 2)):
        made.put(device, [digit(frames, first + number) for number in range(SAMPLES // 2)])
    made.start()
    yield made
    made.stop()


def digit(frames: Any, number: int) -> SampleRecord:
    values = frames.x[number].ravel().tolist()
    return SampleRecord(
        time_us=round(datetime.now(UTC).timestamp() * 1e6) - 3_600_000_000 + number,
        model="digits",
        release=1,
        digest=DIGEST,
        reason="random",
        score=0.5,
        inclusion=0.5,
        input=Tensor(
            datatype="FP32", shape=[1, *frames.x[number].shape], data=struct.pack(f"<{len(values)}f", *values)
        ),
        predicted=str(int(frames.y[number])),
    )


def labels_of(who: str, changed: set[int]) -> str:
    frames = splits(1).train
    lines = [
        f"cam-{1 + number // (SAMPLES // 2)}/{STREAM}/{1 + number % (SAMPLES // 2)},"
        f"{(int(frames.y[number]) + (number in changed)) % 10},{who}"
        for number in range(SAMPLES)
    ]
    return "\n".join(["sample,label,labeller", *lines])


def through_kills(stage: Any, call: Callable[[Client], Any]) -> Any:
    """Make one call over and over while the controller is killed under it, and return what the last one said."""
    draw = random.Random(len(KILLS_S))
    for delay_s in KILLS_S:
        calling = threading.Thread(target=_attempt, args=(stage, call))
        calling.start()
        time.sleep(delay_s + draw.random() * 0.02)
        stage.kill()
        calling.join()
        stage.start()
    return _called(stage, call)


def _attempt(stage: Any, call: Callable[[Client], Any]) -> None:
    try:
        _called(stage, call)
    except ServerUnreachable:
        return


def _called(stage: Any, call: Callable[[Client], Any]) -> Any:
    client = Client(Access.load(stage.folder / "operator.toml"))
    try:
        return call(client)
    finally:
        client.close()


def eventually(check: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_samples_become_a_model_through_every_kill(
    stage: Any, trainer: Trainer, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DSOPS_CONTEXT", str(stage.folder / "operator.toml"))
    recipe = tmp_path / "digits"
    prepare(recipe, seed=3)
    push(run, tmp_path, recipe, 1)

    for who, changed in (("ann", set[int]()), ("bob", {5, 6})):
        text = labels_of(who, changed).encode()
        last = through_kills(stage, lambda client, text=text: client.import_labels("l.csv", text, form="csv"))
        assert last["added"] + last["unchanged"] == SAMPLES
    rows = run("sample", "label", "list", "digits", "-o", "json").result
    assert len(rows) == 2 * SAMPLES
    assert all(len(run("sample", "show", row["sample"], "-o", "json").result["history"]) == 2 for row in rows[:6:2])
    quality = run("sample", "quality", "digits", "-o", "json").result
    assert (quality["twice"], len(quality["disagreements"])) == (SAMPLES, 2)
    assert 0.8 < quality["alpha"]["low"] < quality["alpha"]["value"] < 1

    new = {"name": "field", "model": "digits", "fewest": 2, "group_by": "device", "validation": 0.0, "test": 0.0}
    made = through_kills(stage, lambda client: client.create_dataset(new))
    assert (made["reference"], made["samples"]) == ("field/1", SAMPLES - 2)
    assert len(run("dataset", "list", "-o", "json").result) == 1
    assert run("dataset", "export", "field", recipe / "training.npz", "--split", "training").code == 0

    trainer.on_first = stage.kill
    _attempt(stage, lambda client: client.request_retraining("digits", "field/1", ""))
    eventually(lambda: stage.process.poll() is not None)  # it was killed while it handed the request over
    stage.start()
    asked = run("retrain", "request", "digits", "--dataset", "field/1", "-o", "json").result
    eventually(lambda: delivered(run, asked["id"]))
    assert {body["id"] for body in trainer.bodies} == {asked["id"]}
    assert len(trainer.bodies) == 2
    assert trainer.bodies[1]["data"]["dataset_digest"] == made["digest"]
    assert len(run("retrain", "list", "-o", "json").result) == 1

    toml = recipe / "bundle.toml"
    toml.write_text(toml.read_text().replace("[data]\n", '[data]\ntraining = "training.npz"\n'))
    pushed = push(run, tmp_path, recipe, 2)
    eventually(lambda: run("retrain", "show", asked["id"], "-o", "json").result["state"] == "answered")
    built = run("dataset", "show", "field", "-o", "json").result["models"]
    assert {(one["release"], one["purpose"], one["by"]) for one in built} == {(2, "training", "npz")}
    check_trace(stage, run, pushed["sha256"])


def delivered(run: Callable[..., Any], request: str) -> bool:
    (delivery,) = run("retrain", "show", request, "-o", "json").result["deliveries"]
    return bool(delivery["state"] == "delivered")


def push(run: Callable[..., Any], folder: Path, recipe: Path, release: int) -> dict[str, Any]:
    built = build_model(recipe, folder / f"built-{release}").folder
    bundle = folder / f"digits-{release}.bundle"
    build_bundle(built, release, bundle, "int8")
    assert run("bundle", "sign", bundle, "--keys", folder / "keys").code == 0
    pushed = run("bundle", "push", bundle, "-o", "json")
    assert pushed.code == 0, pushed.err
    result: dict[str, Any] = pushed.result
    return result


def check_trace(stage: Any, run: Callable[..., Any], digest: str) -> None:
    """Check that a device that answered with the new bundle leads back to its signers and its data."""
    stage.stop()
    moment = datetime.now(UTC)
    record = interval(round(moment.timestamp() * 1e6), release=2)
    record.model.digest = digest
    db = Database(load_config(stage.folder).database_url(stage.folder))
    inbox = Inbox(db, SystemClock())
    inbox.start()
    inbox.put("cam-1", received(telemetry_batch(b"t" * 16, [1], [record])))
    inbox.stop()
    db.close()
    stage.start()
    at = (moment + timedelta(milliseconds=100)).isoformat()
    (one,) = run("trace", "device", "cam-1", "--at", at, "-o", "json").result["bundles"]
    assert (one["ran"]["digest"], one["ran"]["proof"]) == (digest, "answered")
    assert one["datasets"] == {"training": "field/1"}
    assert one["signed"]["role"] == "model-digits"
    assert one["signed"]["signers"]
    assert one["policy"]["floor"] == 1
    assert [deed["action"] for deed in one["deeds"]] == ["bundle.pushed"]
    assert one["unknown"] == []
    text = run("trace", "device", "cam-1", "--at", at).out
    assert "training: field/1" in text
    assert "digits/2/int8" in text
    assert run("trace", "device", "nobody", "-o", "json").code == 5
    assert run("trace", "device", "cam-1", "--at", "noon", "-o", "json").code == 2
