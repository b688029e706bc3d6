"""The examples that hand requests to others, run as programs against real servers."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dsops.clock import ManualClock, SystemClock
from dsops_controller.retraining.adapters import Adapters, NotTaken
from dsops_controller.retraining.envelope import Subject, envelope, request_id
from dsops_controller.retraining.settings import Cause, Webhook

EXAMPLES = Path(__file__).parents[3] / "examples/retraining"
SUBJECT = Subject("digits", 2, "b" * 64, "field/1", "d" * 64)
BODY = envelope("north", Cause.DRIFT, SUBJECT, {"devices": 3}, datetime(2026, 1, 1, tzinfo=UTC))
SECRET = "s3cret-of-sixteen-and-more"


class Api:
    """A web server that notes what it is asked, and answers as it is told."""

    def __init__(self) -> None:
        self.status = 204
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, dict(self.headers), body))
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()


def run(name: str, *arguments: str | Path, **environment: str) -> int:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, input=BODY, env=environment, capture_output=True, timeout=60, check=False).returncode


def test_github_gets_one_event_below_one_key(api: Api, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    assert run("github_dispatch.py", "acme/models", tmp_path / "token", GITHUB_API_URL=api.url) == 0
    ((path, headers, body),) = api.asked
    assert path == "/repos/acme/models/dispatches"
    assert headers["Authorization"] == "Bearer t0ken"
    assert body["event_type"] == "retrain.requested"
    assert list(body["client_payload"]) == ["dsops"]
    assert body["client_payload"]["dsops"]["id"] == request_id(Cause.DRIFT, SUBJECT)
    api.status = 401
    assert run("github_dispatch.py", "acme/models", tmp_path / "token", GITHUB_API_URL=api.url) == 1


def test_airflow_starts_one_run_of_a_request(api: Api, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken")
    api.status = 200
    assert run("airflow_trigger.py", api.url, "retrain", tmp_path / "token") == 0
    ((path, _, body),) = api.asked
    assert path == "/api/v2/dags/retrain/dagRuns"
    assert body["dag_run_id"] == f"dsops-{request_id(Cause.DRIFT, SUBJECT)}"
    assert body["conf"]["dataset"] == "field/1"
    for status, code in ((409, 0), (500, 1)):
        api.status = status
        assert run("airflow_trigger.py", api.url, "retrain", tmp_path / "token") == code


def test_the_receiver_keeps_what_is_signed_and_fresh(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "taken").mkdir()
    command = [sys.executable, str(EXAMPLES / "receiver.py"), "0", str(tmp_path / "secret"), str(tmp_path / "taken")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().split()[-1]
        hook = Webhook(url=f"http://127.0.0.1:{port}/", secret_file="secret")
        adapters = Adapters(tmp_path, SystemClock())
        adapters.deliver(hook, "id", BODY)
        adapters.deliver(hook, "id", BODY)
        assert len(list((tmp_path / "taken").iterdir())) == 1
        with pytest.raises(NotTaken, match="403"):
            Adapters(tmp_path, ManualClock(datetime(2020, 1, 1, tzinfo=UTC))).deliver(hook, "id", BODY)
        (tmp_path / "other").write_text("another-secret-of-sixteen")
        with pytest.raises(NotTaken, match="403"):
            adapters.deliver(hook.model_copy(update={"secret_file": "other"}), "id", BODY)
    finally:
        process.terminate()
        process.wait(20)
