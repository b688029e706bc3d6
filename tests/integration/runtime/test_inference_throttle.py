"""A real data process with next to no share of a core: callers wait or are refused, and it says so."""

import json
import threading
import time
from pathlib import Path

import grpc
import pytest
from runtime_bundles import frames, make_bundle
from serving_runtime import serving

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1.open_inference_grpc_pb2_grpc import GRPCInferenceServiceStub
from dsops.api.v1.telemetry_pb2 import TelemetryRecord
from dsops.clock import SystemClock
from dsops_agent.moment import Moments
from dsops_agent.proof import Prover
from dsops_agent.runtime_process import Launch
from dsops_agent.supervisor import RuntimeSupervisor, Told
from dsops_agent.telemetry.collect import SpoolEvents
from dsops_agent.telemetry.spool import Spool

pytestmark = pytest.mark.integration


def ask(stub: GRPCInferenceServiceStub) -> str:
    """Return how a request ended: an empty text, or what the caller is told."""
    data = frames(1)
    request = pb.ModelInferRequest(model_name="compass")
    request.inputs.add(name="image", datatype="FP32", shape=list(data.shape))
    request.raw_input_contents.append(data.tobytes())
    call = stub.ModelInfer.future(request, timeout=30)
    if call.code() is grpc.StatusCode.OK:
        return ""
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return str(call.details())


def test_a_runtime_keeps_to_its_share_of_a_core_and_tells_callers_and_the_control_process(
    tmp_path: Path, short_path: Path
) -> None:
    bundle = make_bundle(tmp_path)
    with (
        serving(short_path, bundle, cpu_percent=1.0) as process,
        grpc.insecure_channel(f"unix:{short_path / 'inference.sock'}") as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        ends_s = time.monotonic() + 60
        told = ""
        while not told and time.monotonic() < ends_s:
            told = ask(stub)
        assert "has used its 1 % of a processor core" in told
        assert "ask again in" in told
        status, _ = process.channel.call("status")
    throttle = status["throttle"]
    assert throttle["refused"] >= 1
    assert "1 %" in throttle["because"]


def test_without_a_share_nothing_is_held_back(tmp_path: Path, short_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with (
        serving(short_path, bundle) as process,
        grpc.insecure_channel(f"unix:{short_path / 'inference.sock'}") as channel,
    ):
        stub = GRPCInferenceServiceStub(channel)
        assert [ask(stub) for _ in range(300)] == [""] * 300
        status, _ = process.channel.call("status")
    assert status["throttle"] == {"delayed": 0, "refused": 0, "because": ""}


@pytest.mark.slow
def test_the_control_process_reports_that_inference_is_held_back_and_that_it_is_free_again(
    tmp_path: Path, short_path: Path
) -> None:
    bundle = make_bundle(tmp_path)
    clock, spool = SystemClock(), Spool(tmp_path / "spool", 1 << 20)
    launch = Launch(short_path, json.dumps({"cpu_percent": 1.0}))
    supervisor = RuntimeSupervisor(
        launch,
        Prover(1),
        spool,
        SpoolEvents(spool, Moments(clock)),
        clock,
        Told(lambda _first: None, lambda _death: None),
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        assert supervisor.ready.wait(60)
        supervisor.activate("compass", bundle.path, bundle.digest, bundle.manifest.release)
        with grpc.insecure_channel(f"unix:{short_path / 'inference.sock'}") as channel:
            stub, ends_s = GRPCInferenceServiceStub(channel), time.monotonic() + 60
            while not supervisor.held_back and time.monotonic() < ends_s:
                ask(stub)
        assert "1 %" in supervisor.held_back
        while supervisor.held_back and time.monotonic() < ends_s + 60:
            time.sleep(0.1)
    finally:
        supervisor.leave()
        thread.join(30)
    batch = spool.batch("events", 1 << 20, 1000)
    assert batch is not None
    kinds = [TelemetryRecord.FromString(record).event.kind for record in batch.records]
    assert [kind for kind in kinds if kind.startswith("inference_")] == ["inference_held_back", "inference_free"]
    spool.close()
