"""A device's identity over its life, as processes: waiting, renewal, an end while offline, refusal, a reset."""

import json
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature

from dsops import dsse
from dsops.errors import DsopsError
from dsops.messages import Connection, check_observed, decode
from dsops_agent.identity import Identity, IdentityFolder

pytestmark = pytest.mark.integration

Eventually = Callable[..., None]
Ask = Callable[..., subprocess.CompletedProcess[str]]
STATE = "dsops/v1/d/cam-1/up/state"
CONNECTION = "dsops/v1/d/cam-1/up/conn"


def identity_of(agent: Any) -> Identity:
    identity = IdentityFolder(agent.folder / "state/identity").load("cam-1")
    assert identity is not None
    return identity


def is_signed_by(data: bytes, identity: Identity) -> bool:
    try:
        check_observed(data, (identity.key.public_key(),), "cam-1")
    except (DsopsError, InvalidSignature):
        return False
    return True


def problem(agent: Any, name: str) -> str:
    path = agent.folder / "state/status.json"
    return agent.status.problems.get(name, "") if path.exists() else ""


def test_a_device_without_a_token_waits_for_an_operator_who_sees_its_fingerprint(
    agent: Any, store: Any, ask: Ask, eventually: Eventually
) -> None:
    (agent.folder / "token").unlink()
    shown = json.loads(ask(agent.folder, "identity", "show", "-o", "json").stdout)
    assert (shown["device"], shown["serial"]) == ("cam-1", "")
    store.waiting.add("cam-1")
    agent.start()
    eventually(lambda: "pending: waits for dsops device accept cam-1" in problem(agent, "enrolment"), 60)
    assert shown["key_sha256"] in problem(agent, "enrolment")
    eventually(lambda: len(store.enrolled) >= 2, 60)
    assert json.loads(ask(agent.folder, "identity", "show", "-o", "json").stdout) == shown
    del store.tokens["cam-1"]
    store.waiting.clear()
    eventually(agent.is_well, 60)
    assert len({request.csr_der for request in store.enrolled}) == 1
    identity = identity_of(agent)
    assert dsse.key_id(identity.key.public_key()) == shown["key_sha256"] == agent.status.fingerprint
    table = ask(agent.folder, "identity", "show").stdout
    assert f"{identity.certificate.serial_number:x}" in table


def test_a_device_that_is_rejected_while_it_waits_ends_with_the_reason(
    agent: Any, store: Any, eventually: Eventually
) -> None:
    (agent.folder / "token").unlink()
    store.waiting.add("cam-1")
    agent.start()
    eventually(lambda: "pending" in problem(agent, "enrolment"), 60)
    store.refusal = "enrolment.device_barred"
    assert agent.wait() == 4
    assert "error[enrolment.device_barred]" in agent.log


@pytest.mark.slow
def test_a_running_agent_renews_and_the_runtime_never_notices(
    agent: Any, store: Any, controller: Any, eventually: Eventually
) -> None:
    store.life_s = 24
    agent.start()
    eventually(agent.is_well, 60)
    first, runtime = identity_of(agent), agent.status.runtime_pid
    store.life_s = None
    eventually(lambda: bool(store.renewed), 60)
    eventually(lambda: identity_of(agent).number == 2)
    second = identity_of(agent)
    assert second.key.public_key() != first.key.public_key()
    eventually(lambda: any(is_signed_by(report, second) for report in controller.got(STATE)))
    reports = [is_signed_by(report, second) for report in controller.got(STATE)]
    assert reports == sorted(reports)  # the old key's first, then only the new one's
    eventually(agent.is_well)
    eventually(lambda: not first.folder.exists())
    births = [decode(Connection, data) for data in controller.got(CONNECTION)]
    assert [birth.conn_seq for birth in births if birth.online] == [1, 2]
    stored = len(store.telemetry)
    eventually(lambda: len(store.telemetry) > stored)
    assert (agent.status.runtime_pid, agent.status.certificate_expires) == (runtime, second.expires)
    assert agent.status.problems == {}
    assert [request.proof for request in store.enrolled] == [b""]


@pytest.mark.slow
def test_a_certificate_that_ends_while_offline_stops_nothing_and_is_replaced_by_a_proof(
    agent: Any, store: Any, broker: Any, eventually: Eventually
) -> None:
    store.life_s = 20
    agent.start()
    eventually(agent.is_well, 60)
    first, runtime = identity_of(agent), agent.status.runtime_pid
    broker.kill()
    store.stop()
    eventually(lambda: datetime.now(UTC) > first.expires, 60)
    eventually(lambda: "the certificate ended" in problem(agent, "identity"), 60)
    before = agent.status.spool["telemetry"].produced
    eventually(lambda: agent.status.spool["telemetry"].produced > before)
    agent.signal(signal.SIGKILL)
    agent.wait()
    agent.start()  # a process that begins with a certificate that has ended
    eventually(lambda: agent.status.pid == agent.process.pid and agent.status.runtime_pid == runtime, 60)
    assert agent.status.enrolled
    store.life_s = None
    store.start()
    broker.start()
    eventually(agent.is_well, 60)
    assert identity_of(agent).key.public_key() != first.key.public_key()
    assert [bool(request.proof) for request in store.enrolled] == [False, True]
    assert agent.status.runtime_pid == runtime


@pytest.mark.slow
def test_a_revoked_device_says_so_goes_on_and_comes_back(
    agent: Any, pki: Any, broker: Any, eventually: Eventually
) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    runtime = agent.status.runtime_pid
    broker.revoke(pki.revocations(identity_of(agent).certificate))
    eventually(lambda: "identity refused by the broker" in problem(agent, "broker"), 60)
    eventually(lambda: agent.log.count("identity refused by the broker") >= 4, 60)
    before = agent.status.spool["telemetry"].produced
    eventually(lambda: agent.status.spool["telemetry"].produced > before)
    assert agent.status.runtime_pid == runtime
    broker.revoke(pki.revocations())
    eventually(agent.is_well, 60)


def test_a_reset_removes_the_identity_but_not_while_the_agent_runs(
    agent: Any, ask: Ask, eventually: Eventually
) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    refused = ask(agent.folder, "identity", "reset")
    assert (refused.returncode, "device.already_running" in refused.stderr) == (6, True)
    agent.signal(signal.SIGTERM)
    agent.wait()
    kept = {path.name for path in (agent.folder / "state").iterdir()} - {"identity"}
    assert ask(agent.folder, "identity", "reset").returncode == 0
    assert {path.name for path in (agent.folder / "state").iterdir()} == kept
    assert "trust" in kept
    assert ask(agent.folder, "identity", "reset").returncode == 0
