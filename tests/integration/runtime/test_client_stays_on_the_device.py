"""What the client for programs reaches: the agent of this device, by a socket or over loopback, and nothing else."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_bundles import LABELS, frames, make_bundle
from serving_runtime import serving

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.client import Inference
from dsops.direct import MAX_BODY_BYTES, Method
from dsops.errors import InvalidInput, NotServing
from dsops_agent.runtime.calls import Asking, Call
from dsops_agent.runtime.server import start_server
from dsops_agent.runtime.sockets import Access
from dsops_controller.demo.ports import free_ports

pytestmark = pytest.mark.integration
ROWS = frames(4)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as one:
        try:
            one.bind(("::1", 0))
        except OSError:
            return False
        return True


def test_frames_take_no_proxy(short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    with (
        socket.create_server(("127.0.0.1", 0)) as proxy,
        serving(short_path, make_bundle(tmp_path), grpc=f"127.0.0.1:{port}"),
    ):
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for host in ("127.0.0.1", "localhost"):
            with Inference(f"{host}:{port}", "compass", timeout_s=20) as compass:
                assert compass.infer(ROWS)["label"].tolist() == list(LABELS)
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize(
    "address", ["192.0.2.1:8001", "0.0.0.0:8001", "[2001:db8::1]:8001", "edge.example:8001", "127.0.0.1.example:8001"]
)
def test_another_address_than_loopback_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="is no loopback address") as refused:
        Inference(address, "compass")
    assert "127.0.0.1:8001" in refused.value.hint


@pytest.mark.parametrize(
    "address", ["", "inference.sock", "127.0.0.1", "127.0.0.1:x", "::1:0", "\0", "/\0", "\ud800/", 5]
)
def test_what_is_no_address_is_told_so(address: Any) -> None:
    with pytest.raises(InvalidInput, match=r"address|path|neither a socket"):
        Inference(address, "compass")


@pytest.mark.parametrize(
    ("host", "listens_on"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("localhost", "127.0.0.1"),
        pytest.param("[::1]", "[::1]", marks=pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")),
    ],
)
def test_loopback_has_several_names(short_path: Path, host: str, listens_on: str) -> None:
    (port,) = free_ports(1)

    def answer(request: Any, asking: Asking) -> Any:
        return pb.ModelMetadataResponse(name=request.name, platform=listens_on)

    call = Call("ModelMetadata", Method.MODEL_METADATA, pb.ModelMetadataRequest, answer)
    server = start_server([call], short_path / "i.sock", Access(), f"{listens_on}:{port}")
    try:
        with Inference(f"{host}:{port}", "compass", timeout_s=20) as compass:
            assert compass.metadata().platform == listens_on
    finally:
        server.stop(1.0)


def test_a_name_without_a_slash_is_the_socket_that_is_there(
    short_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(short_path)
    with serving(short_path, make_bundle(tmp_path)), Inference("inference.sock", "compass") as compass:
        assert compass.infer(ROWS)["label"].tolist() == list(LABELS)


def test_an_answer_over_grpc_may_be_as_long_as_the_agent_sends_one(short_path: Path) -> None:
    values = np.arange((MAX_BODY_BYTES - 1024) // 4, dtype="<f4")

    def answer(request: Any, asking: Asking) -> Any:
        response = pb.ModelInferResponse(raw_output_contents=[values.tobytes()])
        response.outputs.add(name="scores", datatype="FP32", shape=values.shape)
        return response

    call = Call("ModelInfer", Method.MODEL_INFER, pb.ModelInferRequest, answer)
    server = start_server([call], short_path / "i.sock", Access())
    try:
        with Inference(short_path / "i.sock", "compass", timeout_s=60) as compass:
            assert np.array_equal(compass.infer(image=ROWS)["scores"], values)
    finally:
        server.stop(1.0)


def test_a_closed_client_says_so(short_path: Path) -> None:
    for address in (short_path / "inference.sock", "127.0.0.1:8001"):
        closed = Inference(address, "compass")
        closed.close()
        with pytest.raises(NotServing, match="was closed"):
            closed.metadata()
