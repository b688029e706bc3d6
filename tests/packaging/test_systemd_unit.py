"""What a device is set up with: the unit says what the agent relies on, is confined, and the example can be loaded."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dsops.exits import Exit
from dsops_agent.config import load
from dsops_agent.runtime_process import START_S

PACKAGING = Path(__file__).parents[2] / "agent/packaging"
UNIT = PACKAGING / "dsops-agent.service"
MOST_EXPOSED = 2.0
ANALYZE = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(
    ANALYZE is None, reason="NOT CHECKED: how exposed dsops-agent.service is; systemd-analyze is missing (apt: systemd)"
)


class Unit(configparser.RawConfigParser):
    """A unit file: keys keep their case, and a key that stands twice has the last value here."""

    def __init__(self) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",), interpolation=None)
        self.read(UNIT)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    return Unit()["Service"]


@needs_analyze
def test_the_unit_is_confined() -> None:
    command = [ANALYZE or "", "security", "--offline=true", "--no-pager", str(UNIT)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8"})
    found = re.search(r"Overall exposure level for dsops-agent\.service: ([0-9.]+)", finished.stdout)
    assert found, finished.stdout + finished.stderr
    assert float(found[1]) <= MOST_EXPOSED, finished.stdout


@needs_analyze
def test_the_unit_is_free_of_mistakes(tmp_path: Path) -> None:
    """Unknown keys and bad values are only warnings to systemd, which then leaves them out."""
    program = tmp_path / "dsops-agent"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/dsops/bin/dsops-agent", str(program)))
    finished = subprocess.run([ANALYZE or "", "verify", str(copy)], capture_output=True, text=True, check=False)
    told = [line for line in finished.stderr.splitlines() if UNIT.name in line]
    assert told == []


def test_the_watchdog_has_a_service_that_notifies(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert float(service["WatchdogSec"]) >= 30, "the main loop looks four times a second, and a busy device is slow"


def test_a_control_process_that_dies_or_runs_out_of_memory_leaves_the_runtime_alone(
    service: configparser.SectionProxy,
) -> None:
    assert service["KillMode"] == "process"
    assert service["RuntimeDirectoryPreserve"] == "restart"
    assert service["OOMPolicy"] == "continue"
    assert int(service["OOMScoreAdjust"]) < 0


def test_what_does_not_get_better_is_not_tried_again(service: configparser.SectionProxy) -> None:
    assert service["Restart"] == "always"
    final = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert final == {Exit.USAGE, Exit.AUTHENTICATION}


def test_a_start_may_take_as_long_as_the_agent_waits_for_its_runtime(service: configparser.SectionProxy) -> None:
    assert float(service["TimeoutStartSec"]) > 2 * START_S


@pytest.mark.parametrize("limit", ["MemoryMax", "CPUQuota", "TasksMax", "LimitNOFILE"])
def test_the_service_has_limits(service: configparser.SectionProxy, limit: str) -> None:
    assert service[limit] not in ("", "infinity")


def test_the_example_is_a_configuration_and_fits_the_unit(service: configparser.SectionProxy) -> None:
    config = load(PACKAGING / "agent.toml").config
    assert config.state == Path("/var/lib") / service["StateDirectory"]
    assert config.run_folder == Path("/run") / service["RuntimeDirectory"]
    assert service["ExecStart"].endswith("run --config /etc/dsops/agent.toml")


def test_user_and_folders_are_those_of_the_unit(service: configparser.SectionProxy) -> None:
    assert re.search(rf"^u {service['User']} ", (PACKAGING / "dsops.sysusers").read_text(), re.MULTILINE)
    folders = dict(
        re.findall(r"^d (\S+) (\d+) dsops dsops -$", (PACKAGING / "dsops.tmpfiles").read_text(), re.MULTILINE)
    )
    assert folders == {
        f"/var/lib/{service['StateDirectory']}": service["StateDirectoryMode"],
        f"/run/{service['RuntimeDirectory']}": service["RuntimeDirectoryMode"],
    }


def test_no_process_of_the_unit_may_read_the_memory_of_another() -> None:
    lines = UNIT.read_text().splitlines()
    forbidden = {name for line in lines if line.startswith("SystemCallFilter=~") for name in line[18:].split()}
    assert {"process_vm_readv", "process_vm_writev", "ptrace", "pidfd_getfd"} <= forbidden
