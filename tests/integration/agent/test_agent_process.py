"""The agent as processes, against a real broker and real gRPC servers: enrolment, crashes, a tidy end."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from dsops.messages import Connection, Observed, check_observed, decode
from dsops_agent.identity import IdentityFolder

pytestmark = pytest.mark.integration

Eventually = Callable[..., None]
Ask = Callable[..., subprocess.CompletedProcess[str]]

IN_1970 = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from dsops.clock import SystemClock
from dsops_agent.app import Agent
from dsops_agent.config import load

class WithoutBattery(SystemClock):
    def now(self):
        return datetime(1970, 1, 2, tzinfo=UTC)

agent = Agent(load(Path(sys.argv[1])).config, WithoutBattery())
agent.stop_on_signals()
agent.run()
"""


def test_a_device_enrols_connects_reports_and_ends_without_orphans(
    agent: Any, store: Any, ask: Ask, eventually: Eventually
) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    assert not (agent.folder / "token").exists()
    assert (agent.folder / "state/identity/1/device.key").stat().st_mode & 0o777 == 0o600
    eventually(lambda: any(record.HasField("host") for record in store.telemetry.values()))
    checked = ask(agent.folder, "status", "--check", "-o", "json")
    assert checked.returncode == 0, checked.stderr
    answer = json.loads(checked.stdout)
    assert answer["running"]
    assert answer["connected"]
    assert answer["spool"]["telemetry"]["produced"] > 0
    runtime = agent.status.runtime_pid
    agent.signal(signal.SIGTERM)
    agent.signal(signal.SIGINT)
    assert agent.wait() == 0, agent.log
    assert runtime is not None
    assert not psutil.pid_exists(runtime)
    assert "Traceback" not in agent.log
    counters = agent.status.spool["telemetry"]
    assert counters.produced == counters.stored + counters.dropped + counters.pending
    assert counters.pending == 0
    assert len(store.telemetry) == counters.stored
    assert ask(agent.folder, "status", "--check").returncode == 3


def test_a_device_without_a_battery_connects_in_1970_and_says_so(
    agent: Any, controller: Any, eventually: Eventually, ask: Ask
) -> None:
    agent.start("-c", IN_1970)
    eventually(agent.is_well, 60)
    assert agent.status.clock == "behind"
    assert "clock" in ask(agent.folder, "status").stdout
    identity = IdentityFolder(agent.folder / "state/identity").load("cam-1")
    assert identity is not None
    key = identity.key.public_key()

    def is_reported() -> bool:
        reports = controller.got("dsops/v1/d/cam-1/up/state")
        return bool(reports) and check_observed(reports[-1], (key,), "cam-1").observed.clock_suspect

    eventually(is_reported)


def test_birth_and_a_signed_report_of_what_was_refused_come_to_the_controller(
    agent: Any, controller: Any, eventually: Eventually
) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    eventually(lambda: bool(controller.got("dsops/v1/d/cam-1/up/conn")))
    birth = decode(Connection, controller.got("dsops/v1/d/cam-1/up/conn")[0])
    assert (birth.device, birth.online, birth.conn_seq) == ("cam-1", True, 1)
    assert birth.inventory.hardware == os.uname().machine
    controller.put("dsops/v1/d/cam-1/dn/desired", b"this is no directive")
    identity = IdentityFolder(agent.folder / "state/identity").load("cam-1")
    assert identity is not None

    def newest() -> Observed | None:
        reports = controller.got("dsops/v1/d/cam-1/up/state")
        return check_observed(reports[-1], (identity.key.public_key(),), "cam-1").observed if reports else None

    def is_told() -> bool:
        observed = newest()
        return observed is not None and observed.refused is not None

    eventually(is_told)
    observed = newest()
    assert observed is not None
    assert observed.refused is not None
    assert observed.refused.code == "trust.directive_malformed"
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    eventually(lambda: not decode(Connection, controller.got("dsops/v1/d/cam-1/up/conn")[-1]).online)


def test_a_runtime_that_is_killed_is_started_again(agent: Any, store: Any, eventually: Eventually) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    before = agent.status.runtime_pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: agent.status.runtime_pid not in (before, None), 30)
    eventually(lambda: any(record.event.kind == "runtime_restart" for record in store.telemetry.values()))


def test_a_new_control_process_takes_the_runtime_over(agent: Any, store: Any, eventually: Eventually) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    before = agent.status.runtime_pid
    agent.signal(signal.SIGKILL)
    agent.wait()
    agent.start()
    eventually(agent.is_well, 60)
    assert agent.status.runtime_pid == before
    assert len(store.enrolled) == 1
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    assert before is not None
    assert has_ended(before)


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or only waits for whoever adopted it to take note."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_second_agent_on_the_same_state_is_refused(agent: Any, ask: Ask, eventually: Eventually) -> None:
    agent.start()
    eventually(agent.is_well, 60)
    second = ask(agent.folder, "run")
    assert second.returncode == 6
    assert second.stderr.splitlines()[0].startswith("error[device.already_running]")
    assert agent.is_well()


def test_a_refused_enrolment_ends_the_agent_with_its_code(agent: Any, ask: Ask, store: Any) -> None:
    store.tokens["cam-1"] = "another"
    ended = ask(agent.folder, "run")
    assert ended.returncode == 4
    assert "error[transport.enrolment_refused]" in ended.stderr
    assert "the token is not valid" in ended.stderr
    assert (agent.folder / "token").exists()


def test_enrolment_waits_for_a_controller_that_is_away_and_keeps_its_request(
    agent: Any, store: Any, eventually: Eventually
) -> None:
    store.stop()
    agent.start()
    eventually(lambda: (agent.folder / "log").exists() and agent.log.count("not enrolled yet") >= 2, 60)
    request = (agent.folder / "state/identity/1/device.csr").read_bytes()
    agent.signal(signal.SIGKILL)
    agent.wait()
    store.start()
    agent.start()
    eventually(agent.is_well, 60)
    assert [enrolled.csr_der for enrolled in store.enrolled] == [request]
