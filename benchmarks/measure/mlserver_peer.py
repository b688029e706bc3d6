"""MLServer, serving a model of the inference benchmark from an environment of its own.

``DSOPS_MLSERVER_PYTHON`` names a Python that has ``mlserver`` and ``ai-edge-litert``; without it the environment that
``tools/peers.sh mlserver`` makes is looked for. It has no Unix socket, so it listens on the loopback interface; it runs
without worker processes, which makes it answer faster, and without its metrics.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc as rpc
from dsops.errors import RuntimeCrashed
from dsops_controller.demo.ports import free_ports
from measure.child import ENVIRONMENT, stop
from measure.peers import MADE, version_of

START_S = 60.0


def mlserver_python() -> Path | None:
    """Return a Python with MLServer, or None when it is not installed."""
    named = os.environ.get("DSOPS_MLSERVER_PYTHON")
    path = Path(named) if named else MADE / "mlserver/bin/python"
    return path if path.exists() else None


def mlserver_version() -> str:
    """Return MLServer's version, or why there is none."""
    return version_of(mlserver_python(), "mlserver")


@contextmanager
def mlserver(folder: Path, name: str, payload: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve a payload; yield the process and the address of its gRPC server.

    Raises:
        RuntimeCrashed: It did not start.
    """
    python = mlserver_python()
    assert python is not None
    http, rpc_port, metrics = free_ports(3)
    settings = {"debug": False, "host": "127.0.0.1", "http_port": http, "grpc_port": rpc_port, "metrics_port": metrics}
    settings |= {"parallel_workers": 0, "metrics_endpoint": None, "logging_settings": None}
    model = {"name": name, "implementation": "mlserver_runtime.LitertModel", "parameters": {"uri": str(payload)}}
    home = folder / "mlserver"
    home.mkdir()
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "model-settings.json").write_text(json.dumps(model))
    environment = ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parent)}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [python.with_name("mlserver"), "start", home], stdout=log, stderr=log, env=environment, cwd=home
        )
    try:
        address = f"127.0.0.1:{rpc_port}"
        _wait(process, address, name, home / "log")
        yield process, address
    finally:
        stop(process)


def _wait(process: subprocess.Popen[bytes], address: str, name: str, log: Path) -> None:
    ends_s = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        stub = rpc.GRPCInferenceServiceStub(channel)
        while process.poll() is None and time.monotonic() < ends_s:
            try:
                if stub.ModelReady(pb.ModelReadyRequest(name=name), timeout=1.0).ready:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.1)
    raise RuntimeCrashed("MLServer did not start", why=log.read_text(errors="replace")[-800:])
