"""The service as a process: HTTPS, the token, signals, locks and ports."""

import gc
import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from dsops.clock import ManualClock
from dsops.errors import (
    AlreadyRunning,
    Conflict,
    InvalidConfig,
    InvalidInput,
    NotFound,
    PortBusy,
    StateDamaged,
    Unauthorized,
)
from dsops_controller.client import Access, Client
from dsops_controller.server.app import STATE_FILE, Server
from dsops_controller.server.init import init_server
from dsops_controller.trust import ceremony

pytestmark = pytest.mark.integration


def test_health_needs_no_token_and_everything_else_does(http: httpx.Client) -> None:
    del http.headers["Authorization"]
    assert http.get("/health").json() == {"status": "ok", "broker_connected": False, "trust_established": False}
    for path in ("/devices", "/openapi.json", "/nothing", "/../.."):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
            refused = http.get(path, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, "request.unauthorized")


def test_a_wrong_token_is_told_as_unauthorized(site: Any, operator: Client) -> None:
    access = Access.load(site.folder / "operator.toml").model_copy(update={"token": "guess"})
    with pytest.raises(Unauthorized):
        Client(access).devices()


def test_errors_keep_their_class_over_the_wire(operator: Client) -> None:
    with pytest.raises(NotFound):
        operator.device("nobody")
    with pytest.raises(NotFound):
        operator.role("root")
    with pytest.raises(InvalidInput, match="ttl_s"):
        operator.new_token("cam-1", -1)
    with pytest.raises(InvalidInput, match=r"waves\.0"):
        operator.create_rollout({"model": "digits", "release": 1, "waves": [{"count": 1, "percent": 5}]})


def test_a_device_is_registered_with_its_token(operator: Client) -> None:
    made = operator.new_token("cam-1", 600)
    assert len(made["token"]) >= 32
    device = operator.device("cam-1")
    assert (device["state"], device["online"], device["models"], device["seen_ms"]) == ("pending", False, {}, None)
    assert operator.devices() == [device]


def test_the_summary_of_an_empty_fleet(operator: Client) -> None:
    summary = operator.summary()
    assert summary["mqtt"]["connected"] is False
    counts = ("devices", "online", "rollouts_running", "records_stored", "duplicates", "grpc_bytes")
    assert [summary[name] for name in counts] == [0] * len(counts)


REFUSALS = [
    ("GET /nothing", b"", 404, "request.not_found", None),
    ("PUT /devices", b"", 405, "request.invalid_input", None),
    ("DELETE /datasets/field/newest", b"", 422, "request.invalid_input", None),
    ("DELETE /datasets/field/1", b"", 404, "request.not_found", None),
    ("GET /samples?limit=0", b"", 422, "request.invalid_input", "limit"),
    ("GET /samples/export?model=m", b"", 404, "request.not_found", None),
    ("GET /samples/export?format=xlsx", b"", 422, "request.invalid_input", "format"),
    (f"GET /samples/a/{'b' * 32}/1", b"", 404, "request.not_found", None),
    ("GET /samples/a/b/1", b"", 422, "request.invalid_input", None),
    ("POST /samples/erase", b'{"samples":["x"],"reason":"y"}', 422, "request.invalid_input", None),
    ("POST /labels", b"x", 422, "request.invalid_input", None),
    ("POST /labels/given", b'{"labels":[]}', 422, "request.invalid_input", "labels"),
    ("GET /labels/quality?model=m", b"", 404, "request.not_found", None),
    ("GET /datasets/a/newest", b"", 404, "request.not_found", None),
    ("GET /datasets/a/x", b"", 422, "request.invalid_input", None),
    ("POST /retraining", b'{"model":"m"}', 404, "request.not_found", None),
    ("GET /trace/devices/nobody", b"", 404, "request.not_found", None),
    ("GET /trace/devices/cam-1?at=noon", b"", 422, "request.invalid_input", "at"),
    ("POST /rollouts", b"{", 422, "request.invalid_input", "1"),
    ("POST /rollouts", b'{"model":"m","release":1,"colour":2}', 422, "request.invalid_input", "colour"),
    ("POST /rollouts", b'{"model":"m","release":1}', 404, "request.not_found", None),
    ("POST /rollouts", b" " * (1024 * 1024 + 1), 413, "request.too_large", None),
    ("POST /rollouts/ro-1/abort", b"", 404, "request.not_found", None),
    ("POST /devices/a%20b/token", b"{}", 422, "request.invalid_input", None),
    ("POST /devices/nobody/suspend", b"", 404, "request.not_found", None),
    ("POST /bundles", b"x", 422, "request.invalid_input", None),
    ("POST /trust", b"{", 422, "request.invalid_input", "1"),
    ("POST /trust", b'{"metadata":{"policy":"!"}}', 422, "bundle.untrusted", None),
    ("POST /trust", b'{"metadata":{"policy":"e30="}}', 422, "bundle.untrusted", None),
    ("POST /trust/keys/root", b"", 422, "request.invalid_input", None),
    ("GET /trust", b"", 404, "request.not_found", None),
]


def test_every_refusal_has_the_one_form(http: httpx.Client) -> None:
    for request, content, status, code, field in REFUSALS:
        refused = http.request(*request.split(), content=content, headers={"Content-Type": "application/json"})
        body = refused.json()
        assert (refused.status_code, body["code"], body["details"].get("field")) == (status, code, field), request
        assert set(body) == {"code", "message", "why", "hint", "details"}


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(http: httpx.Client) -> None:
    refused = http.post("/bundles", content=(b" " * 1024 * 1024 for _ in range(70)))
    assert (refused.status_code, refused.json()["code"]) == (413, "request.too_large")


def test_every_route_is_described(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    documented = {f"{method.upper()} {path.removeprefix('/api/v1')}" for path, ms in paths.items() for method in ms}
    assert documented == {
        "GET /broker", "POST /broker/check", "GET /sites", "PUT /sites/{name}", "DELETE /sites/{name}",
        "GET /health", "GET /summary", "GET /devices", "GET /devices/{device}", "GET /devices/{device}/why",
        "POST /devices/{device}/token", "POST /devices/{device}/suspend", "POST /devices/{device}/accept",
        "POST /devices/{device}/reject", "POST /devices/{device}/decommission", "POST /devices/preauthorised",
        "POST /devices/{device}/pardon", "GET /trust", "POST /trust", "GET /trust/{role}", "POST /trust/keys/{role}",
        "GET /bundles", "GET /bundles/{model}/{release}", "POST /bundles", "GET /rollouts", "POST /rollouts",
        "GET /bundles/{model}/{release}/file", "GET /devices/{device}/directive",
        "GET /rollouts/{rollout}", "POST /rollouts/{rollout}/abort", "POST /rollouts/{rollout}/resume", "GET /drift",
        "GET /events", "GET /samples", "GET /samples/export", "GET /telemetry", "GET /trust/{model}/pack",
        "GET /challengers", "POST /challengers", "DELETE /challengers/{model}", "POST /challengers/{model}/promote",
        "GET /comparisons", "GET /kpis", "GET /store/tables", "POST /store/check", "POST /store/compact",
        "POST /store/vacuum", "POST /sample-requests",
        "POST /store/retain", "POST /samples/erase", "GET /samples/{device}/{stream}/{seq}",
        "GET /samples/{device}/{stream}/{seq}/image", "GET /labels", "POST /labels", "POST /labels/given",
        "GET /labels/quality", "GET /labels/coverage", "GET /labels/classes/{model}", "POST /labels/classes/{model}",
        "GET /labels/interface/{model}", "GET /datasets", "POST /datasets", "GET /datasets/{name}/{version}",
        "DELETE /datasets/{name}/{version}",
        "GET /datasets/{name}/{version}/export", "GET /datasets/{name}/{version}/diff", "GET /retraining",
        "POST /retraining", "GET /retraining/{request_id}", "POST /retraining/{request_id}/close",
        "POST /retraining/{request_id}/retry", "GET /trace/devices/{device}",
        "GET /drift/show", "GET /drift/top", "GET /drift/report", "GET /telemetry/series", "GET /telemetry/quantiles",
        "GET /telemetry/latest", "GET /telemetry/losses", "GET /telemetry/heartbeats", "GET /alerts",
        "GET /alerts/{alert}", "POST /alerts/{alert}/retry", "POST /alerts/retry", "GET /metrics", "POST /store/unpin",
    }  # fmt: skip


def test_sigterm_stops_it_and_nothing_is_left_behind(site: Any, server: Any, mosquitto: Any) -> None:
    state = json.loads((site.folder / STATE_FILE).read_text())
    assert state["pid"] == server.process.pid
    assert server.ready.split() == [
        "ready:", "rest", f"https://127.0.0.1:{site.ports.rest}", "ingest", f"127.0.0.1:{site.ports.ingest}",
        "enrolment", f"127.0.0.1:{site.ports.enrolment}", "broker", f"127.0.0.1:{site.ports.broker}",
    ]  # fmt: skip
    assert server.terminate() == 0
    assert not (site.folder / STATE_FILE).exists()
    assert "Traceback" not in server.log.read_text()


def test_a_folder_is_served_once(site: Any, server: Any) -> None:
    with pytest.raises(AlreadyRunning):
        Server(site.folder).run()


@pytest.mark.parametrize("name", ["rest", "ingest", "enrolment"])
def test_a_port_in_use_is_named(site: Any, name: str) -> None:
    port = getattr(site.ports, name)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortBusy, match=f"{name}: 127.0.0.1:{port}"):
        Server(site.folder).run()


@pytest.mark.slow
def test_roles_that_expire_soon_are_named_in_log_and_status(site: Any, tmp_path: Path, server: Any) -> None:
    assert server.terminate() == 0
    eighty_days_ago = ManualClock(datetime.now(UTC) - timedelta(days=80))
    ceremony.init(tmp_path / "keys", site.folder, fleet="test", clock=eighty_days_ago)
    server.start()
    assert set(Client(Access.load(site.folder / "operator.toml")).summary()["trust_due"]) == {"policy"}
    assert server.terminate() == 0
    text = server.log.read_text()
    assert text.count("trust metadata expires soon: policy") == 1
    assert "dsops trust renew policy EVENT" in text


@pytest.mark.parametrize("is_alone", [False, True])
def test_it_runs_in_a_thread_of_another_program(site: Any, is_alone: bool) -> None:
    gc.unfreeze()  # what other tests of this process froze
    server = Server(site.folder, is_alone=is_alone)
    thread = threading.Thread(target=server.run)
    thread.start()
    access = Access.load(site.folder / "operator.toml")
    try:
        for _ in range(200):
            if (site.folder / STATE_FILE).exists():
                break
            threading.Event().wait(0.05)
        assert Client(access).summary()["devices"] == 0
        assert (gc.get_freeze_count() > 10_000) == is_alone  # modules, which the collector need not look through
    finally:
        server.stop()
        thread.join(10)
    assert (thread.is_alive(), gc.get_freeze_count()) == (False, 0)


def test_init_refuses_a_folder_that_exists_and_leaves_nothing_half_made(site: Any, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Conflict):
        init_server(site.folder, fleet="test")
    with pytest.raises(NotFound):
        init_server(tmp_path / "no" / "server", fleet="test")
    with pytest.raises(InvalidConfig):
        init_server(tmp_path / "other", fleet="test", host="bücher.example")
    with pytest.raises(StateDamaged):
        init_server(tmp_path / "other", fleet="test", database=f"sqlite:///{tmp_path}/no/such/state.db")
    assert sorted(tmp_path.iterdir()) == before


def test_secrets_are_for_their_owner_only(site: Any) -> None:
    assert site.folder.stat().st_mode & 0o777 == 0o700
    secret = ["operator.toml", "operator.sha256", "controller.toml", "ca/ca.key", "ca/server.key", "ca/controller.key"]
    secret += [f"keys/{name}.pem" for name in ("snapshot", "timestamp", "director")]
    assert {(site.folder / name).stat().st_mode & 0o777 for name in secret} == {0o600}
