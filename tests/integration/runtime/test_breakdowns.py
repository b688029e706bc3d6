"""Models that crash or hang a real inference process, and who is held to account for it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import grpc
import numpy as np
import psutil
import pytest
from breakable_device import Device, ask, eventually, request_of
from runtime_breakers import CRASHES, HANGS, make_breaker
from serving_runtime import serving

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc
from dsops.clock import SystemClock
from dsops.manifest import Budgets
from dsops.modes import Mode
from dsops_agent.boot import boot_id
from dsops_agent.challenger_processes import ChallengerProcesses, challenger_folder
from dsops_agent.install.ports import ProveLimits, Suspect
from dsops_agent.proof import Prover
from dsops_agent.runtime.flight import read_flight
from dsops_agent.runtime_process import Launch
from dsops_agent.supervisor import RuntimeSupervisor, Told
from dsops_agent.telemetry.collect import SpoolEvents
from dsops_agent.telemetry.spool import Spool

pytestmark = pytest.mark.integration


@pytest.fixture
def device(tmp_path: Path, short_path: Path) -> Iterator[Device]:
    device = Device(tmp_path, short_path)
    yield device
    device.stop()


@pytest.mark.parametrize("kind", ["dividing", "endless"])
def test_a_model_that_breaks_at_some_inputs_passes_its_proof(tmp_path: Path, kind: str) -> None:
    bundle = make_breaker(tmp_path, kind, 1)
    proved = Prover(1).prove(bundle.path, ProveLimits(timeout_s=120.0, memory_bytes=2 << 30))
    assert (proved.model, proved.digest, proved.unproven) == (bundle.manifest.model, bundle.digest, "")


def test_the_model_whose_kernel_crashed_is_named_though_another_one_ran(device: Device, tmp_path: Path) -> None:
    bad, busy = make_breaker(tmp_path, "dividing", 1, "bad"), make_breaker(tmp_path, "endless", 1, "busy")
    device.serve(bad)
    device.serve(busy)
    assert device.ask("bad", np.array([5], np.int32)) == 0
    other = threading.Thread(target=device.ask, args=("busy", np.array([1200], np.int32)))
    other.start()
    eventually(lambda: [one.model for one in read_flight(device.folder)] == ["busy"])
    assert device.ask("bad", CRASHES) is None
    eventually(lambda: len(device.deaths) == 1, 60)
    other.join(60)
    assert device.deaths[0].suspects == (Suspect("bad", bad.digest),)
    assert not device.deaths[0].is_hang
    assert "SIGFPE" in device.deaths[0].why


@pytest.mark.slow
def test_a_frame_that_does_not_come_back_ends_the_process_and_names_its_model(device: Device, tmp_path: Path) -> None:
    endless, sound = make_breaker(tmp_path, "endless", 1, "endless"), make_breaker(tmp_path, "sound", 1, "sound")
    device.serve(endless)
    device.serve(sound)
    pid = device.supervisor.pid
    hung = threading.Thread(target=device.ask, args=("endless", HANGS, 120.0))
    hung.start()
    assert device.ask("sound", np.array([9], np.int32)) == 2, "another model answers meanwhile"
    eventually(lambda: len(device.deaths) == 1, 90)
    hung.join(90)
    assert device.deaths[0].suspects == (Suspect("endless", endless.digest),)
    assert device.deaths[0].is_hang
    assert pid is not None
    assert not psutil.pid_exists(pid)
    eventually(lambda: device.supervisor.pid not in (None, pid), 60)


def test_a_crash_while_no_control_process_is_there_is_told_by_the_next_one(tmp_path: Path, short_path: Path) -> None:
    bad = make_breaker(tmp_path, "dividing", 1, "bad")
    with serving(short_path, bad) as process:
        process.channel.close()  # the control process is gone
        assert ask(short_path, "bad", np.array([5], np.int32)) == 0
        assert ask(short_path, "bad", CRASHES) is None
        eventually(lambda: process.child is not None and process.child.poll() is not None)
    device = Device(tmp_path, short_path)
    try:
        assert [death.suspects for death in device.deaths] == [(Suspect("bad", bad.digest),)]
        assert "no control process" in device.deaths[0].why
        os.kill(device.supervisor.pid or 0, signal.SIGKILL)
        eventually(lambda: len(device.deaths) == 2)
        assert device.deaths[1].suspects == (), "it is counted once"
    finally:
        device.stop()


@pytest.mark.parametrize("has_crashed", [True, False])
def test_a_challenger_that_crashed_while_no_control_process_was_there_has_ended_once_more(
    tmp_path: Path, short_path: Path, has_crashed: bool
) -> None:
    bad, folder = make_breaker(tmp_path, "dividing", 1, "bad"), challenger_folder(short_path, "bad", Mode.SPLIT)
    folder.mkdir()
    with serving(folder, bad) as process:
        process.channel.close()
        if has_crashed:
            assert ask(folder, "bad", CRASHES) is None
        else:
            os.kill(process.pid, signal.SIGKILL)  # as the kernel does when memory is short
        eventually(lambda: process.child is not None and process.child.poll() is not None)
    clock, spool, told = SystemClock(), Spool(tmp_path / "spool", 1 << 20), Queue[tuple[str, bool]]()

    def make(launch: Launch, started: Callable[[bool], None]) -> RuntimeSupervisor:
        listener = Told(started, lambda _: None)
        return RuntimeSupervisor(launch, Prover(1), spool, SpoolEvents(spool, clock), clock, listener)

    processes = ChallengerProcesses(
        short_path,
        make,
        lambda where, model, mode: Launch(where, "{}", model=model, mode=mode.value),
        lambda model, has_ended: told.put((model, has_ended)),
    )
    processes.want({"bad": Mode.SPLIT})
    try:
        assert told.get(timeout=60) == ("bad", has_crashed)
    finally:
        processes.leave()
        processes.join(60)
        spool.close()


def test_a_process_that_somebody_kills_while_a_frame_runs_condemns_nobody(device: Device, tmp_path: Path) -> None:
    device.serve(make_breaker(tmp_path, "endless", 1, "busy"))
    running = threading.Thread(target=device.ask, args=("busy", HANGS, 20.0), daemon=True)
    running.start()
    eventually(lambda: bool(read_flight(device.folder)))
    os.kill(device.supervisor.pid or 0, signal.SIGKILL)  # as the kernel does when memory is short
    eventually(lambda: len(device.deaths) == 1)
    assert (device.deaths[0].suspects, device.deaths[0].is_killed) == ((), True)
    assert "memory is short" in device.deaths[0].why


@pytest.mark.slow
def test_a_process_ends_in_order_though_a_frame_does_not_come_back_and_others_wait_for_it(
    tmp_path: Path, short_path: Path
) -> None:
    endless = make_breaker(tmp_path, "endless", 1, "endless")
    with (
        serving(short_path, endless) as process,
        grpc.insecure_channel(f"unix:{short_path / 'inference.sock'}") as channel,
    ):
        stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(channel)
        runs = stub.ModelInfer.future(request_of("endless", HANGS), timeout=120)
        eventually(lambda: bool(read_flight(short_path)))
        waits = [stub.ModelInfer.future(request_of("endless", np.array([2], np.int32)), timeout=120) for _ in range(3)]
        stub.ServerLive(pb.ServerLiveRequest(), timeout=60)  # those before it have come in
        assert not any(call.done() for call in waits)
        child = process.child
        assert child is not None
        child.terminate()
        assert [call.code() for call in waits] == [grpc.StatusCode.UNAVAILABLE] * 3
        assert all("the runtime ends" in call.details() for call in waits)
        assert runs.code() is grpc.StatusCode.UNAVAILABLE
        assert child.wait(60) == 0
    assert not (short_path / "flight").exists(), "the next control process would take it for a crash"
    assert not (short_path / "runtime.pid").exists()


@pytest.mark.parametrize("kind", ["in order", "of another start of the host"])
def test_other_ends_while_no_control_process_is_there_are_nobodys(tmp_path: Path, short_path: Path, kind: str) -> None:
    sound = make_breaker(tmp_path, "sound", 1, "sound")
    with serving(short_path, sound) as process:
        process.channel.close()
        if kind == "of another start of the host":
            process.child.kill()  # type: ignore[union-attr]
            process.child.wait()  # type: ignore[union-attr]
            flight = short_path / "flight"
            flight.write_bytes(flight.read_bytes().replace(boot_id().encode(), b"0" * 36))
    device = Device(tmp_path, short_path)
    device.stop()
    assert [death.suspects for death in device.deaths] in ([], [()])


@pytest.mark.slow
@pytest.mark.parametrize("budget_ms", [0.0, 20.0])
def test_a_quick_model_hangs_long_before_the_general_limit(tmp_path: Path, short_path: Path, budget_ms: float) -> None:
    device = Device(tmp_path, short_path, hang_s=600.0)
    try:
        endless = make_breaker(tmp_path, "endless", 1, "endless", Budgets(max_latency_ms=budget_ms))
        device.serve(endless)
        hung = threading.Thread(target=device.ask, args=("endless", HANGS, 120.0))
        hung.start()
        eventually(lambda: len(device.deaths) == 1, 90)
        hung.join(90)
        assert device.deaths[0].suspects == (Suspect("endless", endless.digest),)
        assert device.deaths[0].is_hang
    finally:
        device.stop()


@pytest.mark.slow
def test_a_process_that_hangs_is_not_asked_to_end_in_order_first(device: Device, tmp_path: Path) -> None:
    device.serve(make_breaker(tmp_path, "endless", 1, "endless"))
    with grpc.insecure_channel(f"unix:{device.folder / 'inference.sock'}") as channel:
        stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(channel)
        runs = stub.ModelInfer.future(request_of("endless", HANGS), timeout=120)
        eventually(lambda: bool(read_flight(device.folder)))
        waits = stub.ModelInfer.future(request_of("endless", np.array([2], np.int32)), timeout=120)
        assert [call.code() for call in (runs, waits)] == [grpc.StatusCode.UNAVAILABLE] * 2
        assert "the runtime ends" not in waits.details(), "that is what it says when it ends in order"
    eventually(lambda: len(device.deaths) == 1)
    assert device.deaths[0].is_hang


def test_figures_come_over_the_control_channel_and_begin_anew_with_an_activation(
    device: Device, tmp_path: Path
) -> None:
    sound = make_breaker(tmp_path, "sound", 1)
    assert device.supervisor.figures("counter") is None
    device.serve(sound)
    for value in range(5):
        assert device.ask("counter", np.array([value], np.int32)) == value
    figures = device.supervisor.figures("counter")
    assert figures is not None
    assert (figures.digest, figures.requests, figures.failures, sum(figures.bins)) == (sound.digest, 5, 0, 5)
    device.serve(sound)
    figures = device.supervisor.figures("counter")
    assert figures is not None
    assert figures.requests == 0
