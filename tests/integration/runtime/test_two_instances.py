"""A real inference process in which a model has two instances: crashed, killed, hung, failing in one of them."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from breakable_device import Device, eventually, request_of
from runtime_breakers import CRASHES, FAILS, HANGS, make_breaker
from runtime_bundles import MadeBundle

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from dsops_agent.install.ports import Suspect
from dsops_agent.install.strikes import Strikes
from dsops_agent.runtime.flight import read_flight

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MODEL = "counter"
QUICK, LONG = np.array([100], np.int32), np.array([900], np.int32)
"""Milliseconds, and about a second."""


class Callers:
    """Programs that ask over one connection, several at a time."""

    def __init__(self, device: Device, pool: ThreadPoolExecutor, stub: rpc.GRPCInferenceServiceStub) -> None:
        self.device, self._pool, self._stub = device, pool, stub

    def ask(self, value: np.ndarray) -> "Future[int | grpc.StatusCode]":
        """Return the answer to come, or why there is none."""
        return self._pool.submit(self._ask, value)

    def run(self) -> int:
        """Return how many frames run at this moment."""
        return len(read_flight(self.device.folder))

    def make_two(self) -> None:
        """Ask until two frames run at once."""
        most = 0
        while most < 2:
            asked = [self.ask(QUICK) for _ in range(6)]
            while not all(one.done() for one in asked):
                most = max(most, self.run())
                time.sleep(0.001)
            assert [one.result() for one in asked] == [0] * 6

    def _ask(self, value: np.ndarray) -> "int | grpc.StatusCode":
        try:
            answer: pb.ModelInferResponse = self._stub.ModelInfer(request_of(MODEL, value), timeout=120)
        except grpc.RpcError as error:
            return error.code()
        return int(np.frombuffer(answer.raw_output_contents[0], np.int32)[0])


@contextmanager
def serving_two(folder: Path, run_folder: Path, bundle: MadeBundle, hang_s: float = 60.0) -> Iterator[Callers]:
    device = Device(folder, run_folder, hang_s=hang_s, settings=json.dumps({"instances": 2}))
    try:
        with ThreadPoolExecutor(12) as pool, grpc.insecure_channel(f"unix:{run_folder / 'inference.sock'}") as channel:
            callers = Callers(device, pool, rpc.GRPCInferenceServiceStub(channel))
            device.serve(bundle)
            callers.make_two()
            yield callers
    finally:
        device.stop()


def strikes_of(device: Device) -> dict[Suspect, int]:
    """Return how many strikes each bundle has by what the supervisor told."""
    strikes = Strikes(most=99, span_s=600.0)
    for death in device.deaths:
        strikes.add(death, 0.0, lambda _: 0, is_last=lambda _: True)
    return {suspect: len(times) for suspect, times in strikes.times.items()}


@pytest.mark.parametrize("how", ["crashes", "is killed"])
def test_who_waits_for_either_instance_is_told_and_the_next_process_serves_with_two(
    tmp_path: Path, short_path: Path, how: str
) -> None:
    bundle = make_breaker(tmp_path, "either", 1)
    with serving_two(tmp_path, short_path, bundle) as callers:
        device, pid = callers.device, callers.device.supervisor.pid
        asked = [callers.ask(LONG)]
        if how == "is killed":
            asked.append(callers.ask(LONG))
            eventually(lambda: callers.run() == 2)
            asked += [callers.ask(QUICK) for _ in range(4)]  # for them there is no instance
            os.kill(pid or 0, signal.SIGKILL)
        else:
            eventually(lambda: callers.run() == 1)
            asked.append(callers.ask(CRASHES))
        told = [one.result(60) for one in asked]
        assert set(told) == {grpc.StatusCode.UNAVAILABLE}, told
        eventually(lambda: len(device.deaths) == 1)
        suspects = (Suspect(MODEL, bundle.digest),) if how == "crashes" else ()
        assert (device.deaths[0].suspects, device.deaths[0].is_killed) == (suspects, how == "is killed")
        eventually(lambda: device.supervisor.pid not in (None, pid))
        device.serve(bundle)
        callers.make_two()
        assert len(device.deaths) == 1
        assert strikes_of(device) == dict.fromkeys(suspects, 1)


def test_an_instance_that_fails_at_an_input_stops_no_other_and_goes_on(tmp_path: Path, short_path: Path) -> None:
    with serving_two(tmp_path, short_path, make_breaker(tmp_path, "choosy", 1)) as callers:
        device, pid = callers.device, callers.device.supervisor.pid
        runs = callers.ask(LONG)
        eventually(lambda: callers.run() == 1)
        failing = [callers.ask(FAILS) for _ in range(4)]  # each in the other instance
        assert {one.result(60) for one in failing} == {grpc.StatusCode.INTERNAL}
        assert callers.ask(QUICK).result(60) == 0
        assert not runs.done()
        assert runs.result(60) == 0
        failing = [callers.ask(FAILS) for _ in range(8)]
        assert {one.result(60) for one in failing} == {grpc.StatusCode.INTERNAL}
        callers.make_two()
        assert (device.supervisor.pid, device.deaths) == (pid, [])


def test_an_instance_that_hangs_stops_no_other_until_it_is_given_up(tmp_path: Path, short_path: Path) -> None:
    bundle = make_breaker(tmp_path, "endless", 1)
    with serving_two(tmp_path, short_path, bundle, hang_s=30.0) as callers:
        hung = callers.ask(HANGS)
        eventually(lambda: any(one.for_s > 1 for one in read_flight(short_path)))
        assert callers.ask(QUICK).result(60) == 0, "the other instance answers"
        eventually(lambda: len(callers.device.deaths) == 1, 90)
        assert hung.result(90) is grpc.StatusCode.UNAVAILABLE
        assert callers.device.deaths[0].suspects == (Suspect(MODEL, bundle.digest),)
        assert callers.device.deaths[0].is_hang


def test_a_bundle_that_hangs_in_both_is_held_to_account_once(tmp_path: Path, short_path: Path) -> None:
    bundle = make_breaker(tmp_path, "endless", 1)
    with serving_two(tmp_path, short_path, bundle, hang_s=2.0) as callers:
        hung = [callers.ask(HANGS) for _ in range(2)]
        eventually(lambda: callers.run() == 2)
        waits = callers.ask(QUICK)
        assert [one.result(90) for one in (*hung, waits)] == [grpc.StatusCode.UNAVAILABLE] * 3
        eventually(lambda: len(callers.device.deaths) == 1)
        assert callers.device.deaths[0].suspects == (Suspect(MODEL, bundle.digest),)
        assert strikes_of(callers.device) == {Suspect(MODEL, bundle.digest): 1}
