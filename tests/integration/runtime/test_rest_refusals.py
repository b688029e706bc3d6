"""What REST says to requests that are wrong, by bytes on the socket: JSON with an error, never a traceback."""

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rest_caller import Caller
from runtime_bundles import LABELS, frames, make_bundle
from runtime_watches import Witness

from dsops.direct import MAX_BODY_BYTES
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.rest import RestService
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.swap import Models

INFER = "/v2/models/compass/infer"
ROW = frames(1)


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    folder = tmp_path_factory.mktemp("r")
    models = Models(1, lambda _: Witness())
    made = make_bundle(folder)
    models.activate("compass", made.path, made.digest, 1)
    with Caller(RestService(Dispatcher(models, Observers()), Regions(lambda _: True)), folder / "r.sock") as found:
        yield found


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "FP32", "shape": [1, 4, 4, 1], "data": ROW.ravel().tolist(), **changes}


def body(**changes: Any) -> bytes:
    return json.dumps({"inputs": [tensor(**changes)]}).encode()


def test_numbers_may_be_nested_as_the_shape_is(caller: Caller) -> None:
    for data in (ROW.ravel().tolist(), ROW.tolist(), ROW.reshape(4, 4).tolist()):
        status, told = caller.post(INFER, body(data=data))
        assert status == 200, told
        scores, label = told["outputs"]
        assert (scores["name"], scores["shape"], label["data"]) == ("scores", [1, 4], [LABELS[0]])
        assert told["parameters"]["release"] == 1


def test_raw_bytes_both_ways(caller: Caller) -> None:
    raw = np.ascontiguousarray(ROW, "<f4").tobytes()
    head = json.dumps(
        {
            "inputs": [tensor(data=None, parameters={"binary_data_size": len(raw)})],
            "outputs": [{"name": "label", "parameters": {"binary_data": True}}, {"name": "scores"}],
        }
    ).encode()
    status, found, headers = caller.send("POST", INFER, head + raw, {"Inference-Header-Content-Length": str(len(head))})
    size = int(headers["Inference-Header-Content-Length"])
    assert status == 200
    told = json.loads(found[:size])
    assert [one["name"] for one in told["outputs"]] == ["label", "scores"]
    assert found[size:] == struct.pack("<I", 5) + b"north"
    assert told["outputs"][0]["parameters"] == {"binary_data_size": 9}


@pytest.mark.parametrize(
    ("sent", "headers", "text"),
    [
        (b"", {}, "no inference request"),
        (b"{", {}, "not JSON"),
        (b"[" * 100_000, {}, "not JSON"),
        (b"[]", {}, "not a JSON object"),
        (b"\xff\xfe", {}, "not JSON"),
        (b'{"inputs": [NaN]}', {}, "not JSON"),
        (b'{"inputs": 7}', {}, "no inference request"),
        (b'{"inputs": []}', {}, "has one input"),
        (body(name=7), {}, "no inference request"),
        (body(shape=[-1, 4]), {}, "no inference request"),
        (body(shape=[1] * 17), {}, "no inference request"),
        (body(shape=[10**11, 4, 4, 1]), {}, "has shape"),
        (body(datatype="FP64"), {}, "has datatype"),
        (body(data=[0.0] * 15), {}, "has 16 values"),
        (body(data=["x"] * 16), {}, "no FP32"),
        (body(data=[True] * 16), {}, "no FP32"),
        (body(data=[[[[[[0.0]]]]]] * 16), {}, "no FP32"),
        (body(datatype="INT8", data=[1.5] * 16), {}, "no INT8"),
        (body(datatype="INT8", data=[300] * 16), {}, "outside -128 to 127"),
        (body(datatype="INT8", data=[10**30] * 16), {}, "no int8 can be"),
        (body(data=[1e300] * 16), {}, "not finite"),
        (body(data=[10**400] * 16), {}, "no float32 can be"),
        (body(data=None), {}, "has neither data"),
        (body(data=None, parameters={"binary_data_size": 64}), {}, "are left of the body"),
        (body(data=None, parameters={"binary_data_size": -1}), {}, "number of bytes"),
        (body(data=None, parameters={"shared_memory_region": 7}), {}, "no name"),
        (body(data=None, parameters={"shared_memory_region": "x"}), {}, "number of bytes"),
        (body() + b"more", {"Inference-Header-Content-Length": str(len(body()))}, "goes on"),
        (body(), {"Inference-Header-Content-Length": "99999"}, "longer than the body"),
        (body(), {"Inference-Header-Content-Length": "-1"}, "no number"),
        (body(), {"Content-Encoding": "gzip"}, "compressed"),
        (json.dumps({"inputs": [tensor()], "parameters": {"timeout": "x"}}).encode(), {}, "microseconds"),
        (json.dumps({"inputs": [tensor()], "parameters": {"timeout": -1}}).encode(), {}, "microseconds"),
    ],
)
def test_a_body_that_is_none_is_told_why(caller: Caller, sent: bytes, headers: dict[str, str], text: str) -> None:
    status, found, _ = caller.send("POST", INFER, sent, headers)
    told = json.loads(found)
    assert (status, list(told)) == (400, ["error"]), told
    assert text in told["error"]
    assert "Traceback" not in told["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/%00/ready", 404),
        ("GET", "/v2/models/compass/versions/9/ready", 404),
        ("GET", "/v2/models/../../etc/passwd", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/compass", 405),
        ("POST", "/v2/repository/models/compass/unload", 403),
        ("GET", "/v2/systemsharedmemory/region/x/status", 404),
        ("POST", "/v2/systemsharedmemory/region/x/register", 400),
    ],
)
def test_a_path_that_leads_nowhere_is_told_so(caller: Caller, method: str, path: str, status: int) -> None:
    found_status, found, _ = caller.send(method, path)
    assert found_status == status
    assert list(json.loads(found)) == ["error"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", INFER, "POST"), ("POST", "/v2", "GET, HEAD"), ("DELETE", "/v2/models/compass/ready", "GET, HEAD")],
)
def test_who_asks_by_another_method_is_told_which_there_are(
    caller: Caller, method: str, path: str, allowed: str
) -> None:
    status, _, headers = caller.send(method, path)
    assert (status, headers["Allow"]) == (405, allowed)
    assert "Allow" not in caller.send("GET", "/v2")[2]


def test_head_is_get_without_a_body_and_the_connection_goes_on(caller: Caller) -> None:
    missing, other = "/v2/models/compass/versions/9", INFER
    too_long = f"Content-Length: {MAX_BODY_BYTES + 1}\r\n"
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as came:
        connection.settimeout(30)
        connection.connect(str(caller.path))

        def ask(method: str, path: str, headers: str = "") -> tuple[int, int]:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
            status = int(came.readline().split()[1])
            told = dict(line.decode().strip().split(": ", 1) for line in iter(came.readline, b"\r\n"))
            length = int(told["Content-Length"])
            assert method == "HEAD" or len(came.read(length)) == length
            return status, length

        for path in ("/v2", "/v2/models/compass", "/v2/health/live", missing):
            assert ask("HEAD", path) == ask("GET", path)
        assert ask("HEAD", other)[0] == 405
        assert ask("HEAD", "/v2", too_long)[0] == 413
        connection.shutdown(socket.SHUT_WR)
        assert came.read() == b""


def test_a_page_in_a_browser_may_not_ask(caller: Caller) -> None:
    status, found, _ = caller.send("POST", INFER, body(), {"Origin": "https://elsewhere.example"})
    assert (status, "browser" in json.loads(found)["error"]) == (403, True)


def test_a_body_that_is_too_long_is_not_read(caller: Caller) -> None:
    status, _, _ = caller.send("POST", INFER, b"", {"Content-Length": str(MAX_BODY_BYTES + 2)})
    assert status == 413
    assert caller.send("GET", "/v2/health/live")[0] == 200
