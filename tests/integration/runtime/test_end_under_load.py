"""The end of the data process while many ask: what they are told, over either transport."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from held_models import eventually, request
from runtime_bundles import make_bundle
from serving_runtime import serving

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc

pytestmark = pytest.mark.integration
CALLERS, AT_ONCE = 6, 8


class Asker:
    """Asks over a connection of its own, several calls at a time, until one of them is not answered.

    Attributes:
        answered: How many were.
        codes: What those that were under way at the end were told, with the reason.
    """

    def __init__(self, socket: Path, begin: threading.Barrier) -> None:
        self._socket, self._begin = socket, begin
        self.answered = 0
        self.codes: list[tuple[grpc.StatusCode, str]] = []

    def run(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(f"unix:{self._socket}", options=options) as channel:
            stub = rpc.GRPCInferenceServiceStub(channel)
            self._begin.wait(60)
            while not self.codes:
                calls = [stub.ModelInfer.future(request(), timeout=60) for _ in range(AT_ONCE)]
                for call in calls:
                    self._take(call)

    def _take(self, call: "grpc.Future[pb.ModelInferResponse]") -> None:
        try:
            call.result()
            self.answered += 1
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:  # too many at once, which is another matter
                self.codes.append((error.code(), error.details()))


def test_callers_in_flight_at_the_end_are_told_that_they_may_ask_again(short_path: Path, tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    with serving(short_path, made, queue=CALLERS * AT_ONCE) as process, ThreadPoolExecutor(CALLERS) as pool:
        begin = threading.Barrier(CALLERS)
        askers = [Asker(short_path / "inference.sock", begin) for _ in range(CALLERS)]
        asking = [pool.submit(asker.run) for asker in askers]
        eventually(lambda: min(asker.answered for asker in askers) > AT_ONCE, "not everybody is answered")
        process.end()
        for one in asking:
            one.result(60)
    told = [code for asker in askers for code in asker.codes]
    assert {code for code, _ in told} == {grpc.StatusCode.UNAVAILABLE}, told
    assert any("the runtime ends" in reason for _, reason in told), told
