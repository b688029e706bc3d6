"""A program on a device that knows only tritonclient: argv is grpc or http, and the address. Says JSON when it is done.

A process of its own: the client's generated code and ours describe the same protocol and cannot share one process.
"""

import contextlib
import json
import os
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import InferenceServerException
from tritonclient.utils import shared_memory as shm

CLASSES = 4
said: dict[str, Any] = {}
kind, address = sys.argv[1:]
module: Any = over_grpc if kind == "grpc" else over_http
frames = np.array(json.load(sys.stdin), np.float32)
client = module.InferenceServerClient(address)


def refused(name: str, work: Any) -> None:
    try:
        work()
    except InferenceServerException as error:
        said.setdefault("refused", {})[name] = [str(error.status()), str(error.message())]
    else:
        said.setdefault("refused", {})[name] = None


def image(rows: np.ndarray = frames, datatype: str = "FP32") -> Any:
    made = module.InferInput("image", list(rows.shape), datatype)
    made.set_data_from_numpy(rows)
    return made


def health() -> None:
    said["live"], said["ready"] = client.is_server_live(), client.is_server_ready()
    said["models"] = [client.is_model_ready("compass"), client.is_model_ready("compass", "1")]
    said["absent"] = [client.is_model_ready("compass", "7"), client.is_model_ready("sundial")]
    as_json = {"as_json": True} if kind == "grpc" else {}
    said["server"] = client.get_server_metadata(**as_json)
    said["metadata"] = client.get_model_metadata("compass", **as_json)
    index = client.get_model_repository_index(**as_json)
    said["index"] = index["models"] if kind == "grpc" else index


def ask() -> None:
    answer = client.infer("compass", [image()], request_id="42")
    said["id"] = answer.get_response().id if kind == "grpc" else answer.get_response()["id"]
    said["scores"] = answer.as_numpy("scores").tolist()
    said["labels"] = [label.decode() for label in answer.as_numpy("label")]
    one = client.infer("compass", [image()], outputs=[module.InferRequestedOutput("label")])
    assert one.as_numpy("scores") is None
    assert [label.decode() for label in one.as_numpy("label")] == said["labels"]
    assert client.infer("compass", [image()], model_version="1", timeout=30_000_000).as_numpy("scores").shape[0] == len(
        frames
    )


def plain_json() -> None:
    """Over HTTP, numbers as JSON both ways."""
    given = module.InferInput("image", list(frames.shape), "FP32")
    given.set_data_from_numpy(frames, binary_data=False)
    outputs = [module.InferRequestedOutput(name, binary_data=False) for name in ("scores", "label")]
    answer = client.infer("compass", [given], outputs=outputs)
    assert np.allclose(answer.as_numpy("scores"), np.array(said["scores"]))
    assert list(answer.as_numpy("label")) == said["labels"]


def shared() -> None:
    key_in, key_out = f"/dsops-in-{os.getpid()}", f"/dsops-out-{os.getpid()}"
    inputs = shm.create_shared_memory_region("in", key_in, frames.nbytes + 64)
    outputs = shm.create_shared_memory_region("out", key_out, 4 * CLASSES * len(frames))
    try:
        shm.set_shared_memory_region(inputs, [frames], offset=64)
        client.register_system_shared_memory("in", key_in, frames.nbytes + 64)
        client.register_system_shared_memory("out", key_out, 4 * CLASSES * len(frames))
        status = client.get_system_shared_memory_status(**({"as_json": True} if kind == "grpc" else {}))
        said["regions"] = sorted(status["regions"]) if kind == "grpc" else sorted(one["name"] for one in status)
        given = module.InferInput("image", list(frames.shape), "FP32")
        given.set_shared_memory("in", frames.nbytes, offset=64)
        wanted = module.InferRequestedOutput("scores")
        wanted.set_shared_memory("out", 4 * CLASSES * len(frames))
        answer = client.infer("compass", [given], outputs=[wanted, module.InferRequestedOutput("label")])
        found = shm.get_contents_as_numpy(outputs, np.float32, [len(frames), CLASSES])
        said["shared_scores"], said["shared_labels"] = found.tolist(), [x.decode() for x in answer.as_numpy("label")]
        refused("taken", lambda: client.register_system_shared_memory("in", key_in, 1))
        given.set_shared_memory("in", frames.nbytes, offset=128)
        refused("outside", lambda: client.infer("compass", [given]))
        given.set_shared_memory("in", frames.nbytes, offset=64)
        os.truncate(f"/dev/shm{key_in}", 4096 if frames.nbytes > 8192 else 8)
        refused("shrunk", lambda: client.infer("compass", [given]))
        client.unregister_system_shared_memory("in")
        refused("unregistered", lambda: client.infer("compass", [given]))
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status(**({"as_json": True} if kind == "grpc" else {})) in ({}, [])
    finally:
        for region in (inputs, outputs):
            with contextlib.suppress(FileNotFoundError):
                shm.destroy_shared_memory_region(region)


def refusals() -> None:
    refused("model", lambda: client.infer("sundial", [image()]))
    refused("version", lambda: client.infer("compass", [image()], model_version="7"))
    refused("shape", lambda: client.infer("compass", [image(frames[:, :2])]))
    refused("output", lambda: client.infer("compass", [image()], outputs=[module.InferRequestedOutput("colour")]))
    refused("classes", lambda: client.infer(
        "compass", [image()], outputs=[module.InferRequestedOutput("scores", class_count=2)]))  # fmt: skip
    refused("load", lambda: client.load_model("compass"))
    refused("unload", lambda: client.unload_model("compass"))
    refused("object", lambda: client.register_system_shared_memory("x", "/dsops-nothing", 1))
    refused("path", lambda: client.register_system_shared_memory("x", "/../etc/passwd", 1))
    refused("late", lambda: client.infer("compass", [image()], timeout=1))


health()
ask()
if kind == "http":
    plain_json()
shared()
refusals()
said["still"] = client.is_server_live()
print(json.dumps(said))
