"""What maintenance rules ask this host and a local program for."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsops.clock import ManualClock, SystemClock
from dsops_agent.conditions import SystemConditions, VetoProgram, default_links

pytestmark = pytest.mark.integration

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wwan0\t00000000\t010200C0\t0003\t0\t0\t700\t00000000\t0\t0\t0
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth1\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
ZERO = "0" * 32
ROUTES_6 = f"""fe80{"0" * 28} 40 {ZERO} 00 {ZERO} 00000100 00000002 00000000 00000001     eth0
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
{ZERO} 00 {ZERO} 00 fe80{"0" * 28} 00000400 00000002 00000000 00000003    ppp0
"""
Ask = Callable[[str], str]


def test_the_preferred_default_routes_lead_outside() -> None:
    assert default_links(ROUTES, ROUTES_6) == ("eth0", "ppp0")
    assert default_links("", "") == ()


def test_this_host_has_conditions() -> None:
    host = SystemConditions()
    assert host.conditions().cpu_percent == 100.0, "nobody calls a host idle that was not looked at"
    now = host.conditions()
    assert 0 <= now.cpu_percent <= 100
    assert now.temperature_c >= 0
    assert all(Path("/sys/class/net", link).exists() for link in now.links)


@pytest.fixture
def ask(tmp_path: Path, eventually: Callable[..., None]) -> Ask:
    """Run a program to its end as a veto; return its objection."""

    def run(text: str, timeout_s: float = 60.0) -> str:
        program = tmp_path / "veto"
        program.write_text(f"#!{sys.executable}\n{text}\n")
        program.chmod(0o755)
        veto = VetoProgram(program, timeout_s, SystemClock())
        found: list[str | None] = []

        def has_ended() -> bool:
            found.append(veto.ask(("activate", "digits", "2")))
            return found[-1] is not None

        eventually(has_ended)
        assert found[-1] is not None
        return found[-1]

    return run


def test_exit_status_0_allows_whatever_is_written(ask: Ask) -> None:
    assert ask("print('fine')") == ""


def test_the_first_line_is_the_reason(ask: Ask) -> None:
    assert ask("import sys; print('robot is moving'); print('more'); sys.exit(1)") == "robot is moving"
    assert ask("import sys; sys.exit(' '.join(sys.argv[1:]) and 3)") == "veto ended with status 3"
    assert ask("import sys; print(*sys.argv[1:]); sys.exit(1)") == "activate digits 2"


@pytest.mark.parametrize(
    "text",
    [
        "import time; time.sleep(3600)",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(3600)'])",
        "while True: print('x' * 1000)",
    ],
)
def test_a_program_that_does_not_end_allows_nothing(ask: Callable[..., str], text: str) -> None:
    assert ask(text, 0.5) == "veto did not answer within 0.5 s"


def test_a_program_that_cannot_be_run_allows_nothing(tmp_path: Path) -> None:
    veto = VetoProgram(tmp_path / "absent", 10.0, SystemClock())
    assert veto.ask(("activate", "digits", "2")) == f"{tmp_path}/absent cannot be run: No such file or directory"
    (tmp_path / "absent").write_bytes(os.urandom(10))
    assert "cannot be run: Permission denied" in (veto.ask(("activate", "digits", "2")) or "")


@pytest.mark.parametrize("text", ["import time; time.sleep(3600)", "pass"])
def test_a_program_whose_answer_nobody_fetches_is_ended_and_closed(
    tmp_path: Path, text: str, eventually: Callable[..., None]
) -> None:
    program, clock = tmp_path / "veto", ManualClock()
    program.write_text(f"#!{sys.executable}\n{text}\n")
    program.chmod(0o755)
    veto = VetoProgram(program, 10.0, clock)
    assert veto.ask(("download", "digits", "2")) is None
    child = veto._runs["download", "digits", "2"].child
    if text == "pass":
        eventually(lambda: Path(f"/proc/{child.pid}/stat").read_text().split()[2] == "Z")
    clock.advance(5)
    assert veto.ask(("download", "digits", "3")) is None
    assert set(veto._runs) == {("download", "digits", "2"), ("download", "digits", "3")}, "both may be asked for"
    clock.advance(5)
    veto.ask(("download", "digits", "3"))
    assert ("download", "digits", "2") not in veto._runs
    assert child.returncode is not None
    assert not Path(f"/proc/{child.pid}").exists()
    assert child.stdout is not None
    assert child.stdout.closed
    clock.advance(10)
    while veto._runs:
        veto.ask(("download", "digits", "3"))
