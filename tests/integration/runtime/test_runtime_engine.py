"""The data process with the keys of agent.toml that say how it computes: processors, niceness, delegate, batches."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import LABELS, frames, make_bundle, with_section
from test_runtime_process import Device, wait_for

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.manifest import Postprocessing, Preprocessing
from dsops_agent.config import load
from dsops_agent.parts import launch
from dsops_agent.runtime.settings import RuntimeSettings

pytestmark = pytest.mark.integration
SOURCE = Path(__file__).parents[2] / "unit" / "runtime" / "twice_delegate.c"


@pytest.fixture
def devices(short_path: Path) -> Iterator[list[Device]]:
    made: list[Device] = []
    yield made
    for device in made:
        device.close()


def started(devices: list[Device], folder: Path, **settings: object) -> Device:
    device = Device(folder, **settings)
    devices.append(device)
    device.start()
    return device


def pid_of(device: Device) -> int:
    assert device.process is not None
    return device.process.pid


def test_it_runs_on_the_processors_that_it_is_told_and_lets_others_go_first(
    devices: list[Device], short_path: Path
) -> None:
    cpu = min(os.sched_getaffinity(0))
    device = started(devices, short_path, cpus=[cpu], nice=7)
    assert os.sched_getaffinity(pid_of(device)) == {cpu}
    assert os.getpriority(os.PRIO_PROCESS, pid_of(device)) == 7


def test_processors_that_there_are_not_are_reported_and_stop_nothing(devices: list[Device], short_path: Path) -> None:
    device = started(devices, short_path, cpus=[4000])
    wait_for(lambda: any(event.kind == "placement_refused" for event in device.events()), device.log)
    assert os.sched_getaffinity(pid_of(device)) == os.sched_getaffinity(0)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize(("mood", "problem"), [("", ""), ("refuse", "no such accelerator"), ("crash", "signal 11")])
def test_a_delegate_that_fails_is_reported_while_models_answer(
    devices: list[Device], short_path: Path, tmp_path: Path, mood: str, problem: str
) -> None:
    library = tmp_path / "libtwice.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    delegate = {"name": "twice", "library": str(library), "options": {"mood": mood}}
    device = started(devices, short_path, delegate=delegate)
    device.activate(make_bundle(tmp_path))
    told = device.call("status")["delegate"]
    assert told["name"] == "twice"
    assert problem in told["problem"]
    assert bool(told["problem"]) is bool(problem)
    if problem:
        wait_for(lambda: any(event.kind == "delegate_fallback" for event in device.events()), device.log)
    channel, stub = device.stub()
    with channel:
        assert labels(stub.ModelInfer(request(frames(4)))) == list(LABELS)


def test_a_request_of_many_frames_is_answered_as_many_requests_of_one(
    devices: list[Device], short_path: Path, tmp_path: Path
) -> None:
    device = started(devices, short_path)
    device.activate(make_bundle(tmp_path))
    channel, stub = device.stub()
    rows = frames(32, seed=8, noise=0.4)
    with channel:
        singly = [stub.ModelInfer(request(rows[row : row + 1])) for row in range(32)]
        for _ in range(6):
            together = stub.ModelInfer(request(rows))
            assert together.raw_output_contents[0] == b"".join(one.raw_output_contents[0] for one in singly)
            assert labels(together) == [label for one in singly for label in labels(one)]


TRITON = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
client = triton.InferenceServerClient("unix:" + sys.argv[1])
data = np.load(sys.argv[2])
tensor = triton.InferInput("image", list(data.shape), "UINT8")
tensor.set_data_from_numpy(data)
wanted = [triton.InferRequestedOutput(name) for name in ("top_labels", "top_scores")]
result = client.infer("compass", [tensor], outputs=wanted, parameters={"form": "raw"})
print(json.dumps({
    "labels": [[label.decode() for label in row] for row in result.as_numpy("top_labels")],
    "scores": result.as_numpy("top_scores").tolist(),
}))
"""


def test_tritonclient_sends_pictures_of_a_camera_and_gets_the_best_labels(
    devices: list[Device], short_path: Path, tmp_path: Path
) -> None:
    device = started(devices, short_path)
    told = {"input": "image", "layout": "NHWC", "color": "GRAY", "raw": "UINT8", "raw_color": "BGR"}
    section = Preprocessing.model_validate(told | {"resize": "stretch", "interpolation": "area", "scale": (1 / 255,)})
    device.activate(with_section(make_bundle(tmp_path, postprocessing=Postprocessing(top_k=2)), section))
    pictures = np.rint(frames(6) * 255).astype(np.uint8).repeat(5, 1).repeat(3, 2).repeat(3, 3)
    np.save(tmp_path / "x.npy", pictures)
    done = subprocess.run(
        [sys.executable, "-c", TRITON, str(device.folder / "inference.sock"), str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # in a process of its own: the client brings protobuf definitions of the same names
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [row[0] for row in said["labels"]] == [LABELS[row % 4] for row in range(6)]
    assert all(first >= second for first, second in said["scores"])


def test_agent_toml_says_how_the_data_process_computes(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        'device = "d1"\nstate = "state"\n[trust]\nroot = "root.json"\n'
        "[inference]\nthreads = 2\ninstances = 3\ncpus = [0, 1]\nnice = 5\n"
        '[inference.delegate]\nlibrary = "libedgetpu.so.1"\noperators = ["edgetpu-custom-op"]\n'
        '[inference.delegate.options]\ndevice = "usb"\n'
    )
    found = RuntimeSettings.parse(launch(load(path).config).settings_json)
    assert (found.threads, found.instances, found.cpus, found.nice) == (2, 3, (0, 1), 5)
    assert found.delegate is not None
    assert found.delegate.model_dump() == {
        "name": "edgetpu",
        "library": "libedgetpu.so.1",
        "options": {"device": "usb"},
        "operators": ("edgetpu-custom-op",),
        "exclusive": False,
    }


def request(rows: np.ndarray) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="compass")
    message.inputs.add(name="image", datatype="FP32", shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    return message


def labels(response: pb.ModelInferResponse) -> list[str]:
    raw = response.raw_output_contents[[one.name for one in response.outputs].index("label")]
    found = []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + length].decode())
        raw = raw[4 + length :]
    return found
