"""tritonclient, over gRPC and HTTP, shared memory included, against the data process as the agent starts it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import LABELS, SHAPE, frames, make_bundle
from serving_runtime import serving

from dsops_controller.demo.ports import free_ports

PROGRAM = Path(__file__).parent / "triton_scenario.py"
STATUSES = {
    "model": ("StatusCode.NOT_FOUND", "404", "no model 'sundial' is active"),
    "version": ("StatusCode.NOT_FOUND", "404", "release 7 of model compass is not active"),
    "shape": ("StatusCode.INVALID_ARGUMENT", "400", "input 'image' has shape"),
    "output": ("StatusCode.INVALID_ARGUMENT", "400", "model compass has the outputs"),
    "classes": ("StatusCode.INVALID_ARGUMENT", "400", "classification"),
    "load": ("StatusCode.PERMISSION_DENIED", "403", "only the agent changes models"),
    "unload": ("StatusCode.PERMISSION_DENIED", "403", "only the agent changes models"),
    "object": ("StatusCode.NOT_FOUND", "404", "there is no shared memory object"),
    "path": ("StatusCode.INVALID_ARGUMENT", "400", "is no name of a shared memory object"),
    "late": ("StatusCode.DEADLINE_EXCEEDED", "504", "deadline"),
    "taken": ("StatusCode.ALREADY_EXISTS", "409", "registered already"),
    "outside": ("StatusCode.INVALID_ARGUMENT", "400", "not inside shared memory 'in'"),
    "shrunk": ("StatusCode.INVALID_ARGUMENT", "400", "shorter than it was registered"),
    "unregistered": ("StatusCode.NOT_FOUND", "404", "no shared memory 'in' is registered"),
}


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["grpc", "http", "grpc over loopback"])
def test_the_whole_scenario(kind: str, short_path: Path, tmp_path: Path) -> None:
    rest, grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    address = {"grpc": f"unix://{short_path}/inference.sock", "http": rest}.get(kind, grpc)
    rows = frames(40, seed=2, noise=0.02)
    with serving(short_path, make_bundle(tmp_path), rest=rest, grpc=grpc):
        done = subprocess.run(
            [sys.executable, str(PROGRAM), kind.split(maxsplit=1)[0], address],
            input=json.dumps(rows.tolist()), capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["live"], said["ready"], said["still"], said["id"]) == (True, True, True, "42")
    assert (said["models"], said["absent"]) == ([True, True], [False, False])
    assert said["server"]["name"] == "dsops"
    assert "system_shared_memory" in said["server"]["extensions"]
    (image,) = said["metadata"]["inputs"]
    assert (image["name"], list(map(int, image["shape"]))) == ("image", [-1, *SHAPE])
    assert [(one["name"], one["version"], one["state"]) for one in said["index"]] == [("compass", "1", "READY")]
    assert said["labels"] == [LABELS[row % 4] for row in range(40)]
    assert np.array(said["scores"]).shape == (40, 4)
    assert said["regions"] == ["in", "out"]
    assert (said["shared_scores"], said["shared_labels"]) == (said["scores"], said["labels"])
    column = 1 if kind == "http" else 0
    assert {name: found and found[0] for name, found in said["refused"].items()} == {
        name: row[column] for name, row in STATUSES.items()
    }
    for name, (_, text) in said["refused"].items():
        assert STATUSES[name][2] in text.lower() if name == "late" else STATUSES[name][2] in text
        assert "Traceback" not in text
