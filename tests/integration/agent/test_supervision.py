"""The supervisor with the real inference process, and the throw-away process with its limits."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dsops.clock import SystemClock
from dsops.errors import Cancelled, DsopsError, MalformedBundle, RuntimeBusy, RuntimeCrashed
from dsops_agent.install.ports import Death, ProveLimits
from dsops_agent.moment import Moments
from dsops_agent.proof import Prover
from dsops_agent.runtime_process import Launch, adopt, spawn
from dsops_agent.supervisor import RuntimeSupervisor, Told
from dsops_agent.telemetry.collect import SpoolEvents
from dsops_agent.telemetry.spool import Spool

pytestmark = pytest.mark.integration

Eventually = Callable[..., None]
LIMITS = ProveLimits(timeout_s=60.0, memory_bytes=2 << 30)


def is_stopped(pid: int) -> bool:
    """Return whether every thread of a process rests."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


class Supervised:
    """A supervisor with its thread."""

    def __init__(self, folder: Path, run_folder: Path) -> None:
        self.starts: list[bool] = []
        self.deaths: list[Death] = []
        self.spool = Spool(folder / "spool", 1 << 20)
        clock = SystemClock()
        self.supervisor = RuntimeSupervisor(
            Launch(run_folder, "{}"),
            Prover(1),
            self.spool,
            SpoolEvents(self.spool, Moments(clock)),
            clock,
            Told(self.starts.append, self.deaths.append),
        )
        self.thread = threading.Thread(target=self.supervisor.run)

    def start(self) -> RuntimeSupervisor:
        self.thread.start()
        assert self.supervisor.ready.wait(60)
        return self.supervisor

    def stop(self) -> None:
        self.supervisor.leave()
        if self.thread.ident is not None:
            self.thread.join(30)
            assert not self.thread.is_alive()
        self.spool.close()


@pytest.fixture
def supervised(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    supervised = Supervised(tmp_path, tmp_path_factory.mktemp("r"))
    yield supervised
    supervised.stop()


def test_the_process_is_started_and_ended(supervised: Supervised) -> None:
    supervisor = supervised.start()
    pid = supervisor.pid
    assert pid is not None
    assert not supervisor.is_serving("digits", "a" * 64)
    assert supervisor.rss_bytes > 10 << 20, "it says so itself"
    supervised.stop()
    assert supervisor.rss_bytes == 0
    assert not psutil.pid_exists(pid)
    assert supervised.starts == [True]


def test_a_killed_process_is_replaced_and_told(supervised: Supervised, eventually: Eventually) -> None:
    supervisor = supervised.start()
    for _ in range(2):
        pid = supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda before=pid: supervisor.pid not in (None, before), 60)
    eventually(lambda: supervised.starts == [True, False, False])
    assert [death.suspects for death in supervised.deaths] == [(), ()], "nothing ran: it is nobody's fault"
    assert supervised.spool.counters()["events"].produced >= 2


@pytest.mark.parametrize(("settings", "is_kept"), [('{"queue": 3}', True), ('{"queue": 4}', False)])
def test_a_process_is_taken_over_unless_its_settings_are_others(
    tmp_path_factory: pytest.TempPathFactory, settings: str, *, is_kept: bool
) -> None:
    folder = tmp_path_factory.mktemp("r")
    first = spawn(Launch(folder, '{"queue": 3}'), lambda *_: ({}, b""), SystemClock(), lambda _: False)
    first.channel.close()
    taken = adopt(Launch(folder, settings), lambda *_: ({}, b""))
    try:
        assert (taken is not None) == is_kept
        assert (first.child is not None and first.child.poll() is None) == is_kept
    finally:
        first.end()


def test_a_request_for_a_bundle_that_is_none_is_refused_and_ends_nothing(
    supervised: Supervised, tmp_path: Path
) -> None:
    supervisor = supervised.start()
    pid = supervisor.pid
    (tmp_path / "bundle").write_bytes(b"nonsense")
    with pytest.raises(DsopsError) as caught:
        supervisor.activate("digits", tmp_path / "bundle", "a" * 64, 1)
    assert not isinstance(caught.value, RuntimeCrashed)
    supervisor.deactivate("digits")
    assert supervisor.pid == pid


def test_a_check_that_takes_too_long_is_no_crash_of_a_process_that_answers(
    supervised: Supervised, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = supervised.start()
    monkeypatch.setattr("dsops_agent.supervisor.CHECK_S", 0.0)
    pid = supervisor.pid
    assert pid is not None
    with pytest.raises(RuntimeBusy):
        supervisor.check("digits")
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: is_stopped(pid))  # a thread in the kernel, or on another processor, stops a little later
        monkeypatch.setattr("dsops_agent.supervisor.SILENT_S", 0.5)
        with pytest.raises(RuntimeCrashed):
            supervisor.check("digits")
    finally:
        os.kill(pid, signal.SIGCONT)


def test_without_a_process_requests_fail_and_during_the_end_they_end_the_thread(supervised: Supervised) -> None:
    supervisor = supervised.supervisor
    with pytest.raises(RuntimeCrashed):
        supervisor.check("digits")
    supervisor.leave()
    with pytest.raises(SystemExit):
        supervisor.check("digits")


def test_the_proof_of_a_file_that_is_no_bundle_names_it(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"nonsense")
    with pytest.raises(MalformedBundle):
        Prover(1).prove(tmp_path / "bundle", LIMITS)


@pytest.mark.parametrize(
    "limits", [ProveLimits(timeout_s=60.0, memory_bytes=8 << 20), ProveLimits(timeout_s=0.01, memory_bytes=0)]
)
def test_a_proof_without_memory_or_time_is_a_crash(tmp_path: Path, limits: ProveLimits) -> None:
    (tmp_path / "bundle").write_bytes(b"nonsense")
    with pytest.raises(RuntimeCrashed) as caught:
        Prover(1).prove(tmp_path / "bundle", limits)
    assert caught.value.why


def test_a_proof_can_be_broken_off(tmp_path: Path) -> None:
    fifo = tmp_path / "bundle"
    os.mkfifo(fifo)  # opening it waits for a writer, for ever
    prover = Prover(1)
    ended: list[DsopsError] = []

    def prove() -> None:
        try:
            prover.prove(fifo, LIMITS)
        except RuntimeCrashed as error:
            ended.append(error)

    thread = threading.Thread(target=prove)
    thread.start()
    while thread.is_alive():
        prover.abort()
        thread.join(0.05)
    assert "SIGKILL" in ended[0].why


def test_a_proof_that_nobody_wants_any_more_is_killed(tmp_path: Path) -> None:
    fifo = tmp_path / "bundle"
    os.mkfifo(fifo)  # opening it waits for a writer, for ever
    prover, unwanted = Prover(1), threading.Event()
    ended: list[DsopsError] = []

    def prove() -> None:
        try:
            prover.prove(fifo, LIMITS, None, unwanted)
        except Cancelled as error:
            ended.append(error)

    thread = threading.Thread(target=prove)
    thread.start()
    children = psutil.Process()
    while not [child for child in children.children() if str(fifo) in " ".join(child.cmdline())]:
        assert thread.is_alive()
    unwanted.set()
    thread.join(30)
    assert [str(error) for error in ended] == ["the bundle is not wanted any more"]
    assert not [child for child in children.children() if str(fifo) in " ".join(child.cmdline())]
