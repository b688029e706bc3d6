"""The throw-away process as a process: where it runs, how it ends, and what it is given."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import planted
import psutil
import pytest
from twice import compile_delegate, delegate, make_twice, needs_compiler

from dsops.errors import Cancelled, DsopsError, NoMemory, RuntimeCrashed
from dsops_agent.config import load
from dsops_agent.install.ports import ProveLimits
from dsops_agent.install.steps import CONDEMNING
from dsops_agent.parts import prover
from dsops_agent.proof import Prover, _parse, _proved
from dsops_agent.runtime_process import PROOF_OOM_SCORE

pytestmark = pytest.mark.integration

LIMITS = ProveLimits(timeout_s=120.0, memory_bytes=2 << 30)

CONTROL = """
import sys
from pathlib import Path
from dsops_agent.install.ports import ProveLimits
from dsops_agent.proof import Prover
Prover(1, sys.argv[2]).prove(Path(sys.argv[1]), ProveLimits(timeout_s=600.0))
"""
CONFIG = """
device = "cam-1"
state = "state"
[trust]
root = "1.root.json"
[inference]
cpus = [{cpu}]
nice = 13
"""


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A bundle that takes long."""
    return planted.never_ends(tmp_path).path


def eventually(is_so: Callable[[], object]) -> None:
    ends_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < ends_s
        time.sleep(0.02)


def proofs(bundle: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "dsops_agent.runtime.prove" in (command := process.cmdline()) and str(bundle) in command:
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def proving(tried: Prover, bundle: Path) -> Iterator[list[DsopsError]]:
    """Prove beside the test; yields what is found, and ends the proof if it runs still."""
    found: list[DsopsError] = []
    ended = threading.Event()

    def prove() -> None:
        try:
            tried.prove(bundle, LIMITS, None, ended)
        except DsopsError as error:
            found.append(error)

    thread = threading.Thread(target=prove)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join(30)
        assert not thread.is_alive()


def test_a_bundle_is_proved_where_and_as_urgently_as_it_will_serve(endless: Path, tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    (tmp_path / "agent.toml").write_text(CONFIG.format(cpu=cpu))
    with proving(prover(load(tmp_path / "agent.toml").config), endless):
        eventually(lambda: [process.nice() for process in proofs(endless)] == [13])
        assert [process.cpu_affinity() for process in proofs(endless)] == [[cpu]]


@pytest.mark.slow
@needs_compiler
def test_a_proof_that_never_ends_ends_with_the_control_process_that_died(tmp_path: Path) -> None:
    stuck, bundle = delegate(compile_delegate(tmp_path), "stuck"), make_twice(tmp_path).path
    control = subprocess.Popen([sys.executable, "-c", CONTROL, str(bundle), stuck.model_dump_json()])
    eventually(lambda: [process for process in proofs(bundle) if process.cpu_times().user > 3])
    left = proofs(bundle)
    control.kill()
    control.wait(30)
    try:
        eventually(lambda: proofs(bundle) == [])
    finally:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_proof_that_the_kernel_kills_does_not_condemn_the_bundle(endless: Path) -> None:
    with proving(Prover(1), endless) as found:
        eventually(lambda: proofs(endless))
        for process in proofs(endless):
            process.send_signal(signal.SIGKILL)
        eventually(lambda: found)
    assert isinstance(found[0], NoMemory)
    assert not isinstance(found[0], CONDEMNING)


def test_a_proof_that_is_not_wanted_any_more_is_only_that(endless: Path) -> None:
    with proving(Prover(1), endless) as found:
        eventually(lambda: proofs(endless))
    assert [type(error) for error in found] == [Cancelled]


@needs_compiler
def test_nothing_is_left_of_a_proof_whose_delegate_hangs(endless: Path, tmp_path: Path) -> None:
    wanted = delegate(compile_delegate(tmp_path), "hang")
    with proving(Prover(1, wanted.model_dump_json()), endless):
        eventually(lambda: [child for one in proofs(endless) for child in one.children()])
        (hanging,) = [child for one in proofs(endless) for child in one.children()]
    eventually(lambda: not hanging.is_running())


def test_what_the_service_manager_gave_is_not_handed_on(endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "@not-theirs")
    monkeypatch.setenv("DSOPS_TEST_KEPT", "yes")
    with proving(Prover(1), endless):
        eventually(lambda: [one for one in proofs(endless) if "DSOPS_TEST_KEPT" in one.environ()])
        assert [name for one in proofs(endless) for name in one.environ() if name == "NOTIFY_SOCKET"] == []


def test_a_proof_writes_no_file_and_dies_before_what_answers(endless: Path) -> None:
    with proving(Prover(1), endless):
        eventually(lambda: [process for process in proofs(endless) if process.cpu_times().user > 2])
        (process,) = proofs(endless)
        assert [file.path for file in process.open_files() if set(file.mode) & set("wa+")] == []
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == str(PROOF_OOM_SCORE)


def test_what_makes_no_sense_is_a_crash() -> None:
    for data in (b"", b"[]", b"nonsense", b"[" * 60_000, b"\xff\xfe"):
        with pytest.raises(RuntimeCrashed):
            _parse(data)
    with pytest.raises(RuntimeCrashed):
        _proved({"ok": True, "model": 3})
