"""The client of the distribution against the data process as the agent starts it."""

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_models import eventually
from runtime_bundles import LABELS, frames, make_bundle, with_section
from serving_runtime import serving

from dsops.api.v1 import inference_extensions_pb2 as extensions
from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.client import Inference
from dsops.direct import DirectChannel, Framed, Method, direct_path
from dsops.errors import InvalidInput, NotFound, NotServing, RuntimeCrashed
from dsops.manifest import Preprocessing
from dsops_agent.runtime.shared_memory import MAX_REGIONS
from dsops_controller.demo.ports import free_ports

pytestmark = pytest.mark.integration
ROWS = frames(12, seed=2, noise=0.02)


def ours() -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"dsops-{os.getpid()}-*")]


@pytest.mark.parametrize("shared_memory", [False, True])
def test_arrays_in_and_arrays_out(short_path: Path, tmp_path: Path, shared_memory: bool) -> None:
    made = make_bundle(tmp_path, release=3)
    with (
        serving(short_path, made),
        Inference(short_path / "inference.sock", "compass", shared_memory=shared_memory) as compass,
    ):
        answer = compass.infer(ROWS)
        assert answer["label"].tolist() == [LABELS[row % 4] for row in range(12)]
        assert answer["scores"].shape == (12, 4)
        assert (answer.release, answer.digest) == (3, made.digest)
        by_name = compass.infer(image=ROWS[:1].astype(np.float64), outputs=("label",))
        assert {name: list(found) for name, found in by_name.items()} == {"label": ["north"]}
        many = np.repeat(ROWS, 20, axis=0)  # does not fit into the memory that was shared first
        assert np.array_equal(compass.infer(many)["scores"][::20], answer["scores"])
        assert np.array_equal(compass.infer(ROWS)["scores"], answer["scores"])
        assert ours() == []


@pytest.mark.parametrize("shared_memory", [False, True])
def test_a_request_says_what_its_values_are(short_path: Path, tmp_path: Path, shared_memory: bool) -> None:
    section = Preprocessing(input="image", layout="NHWC", color="GRAY", raw="INT8", scale=(1 / 127,))
    made = with_section(make_bundle(tmp_path), section)
    raw = np.rint(ROWS * 127).astype(np.int8)
    with (
        serving(short_path, made),
        Inference(short_path / "inference.sock", "compass", shared_memory=shared_memory) as compass,
    ):
        with pytest.raises(InvalidInput, match="stored or raw"):
            compass.infer(raw)
        real = compass.infer(raw * np.float32(1 / 127), form="real")["scores"]
        assert np.array_equal(compass.infer(raw, form="raw")["scores"], real)
        assert not np.array_equal(compass.infer(raw, form="stored")["scores"], real)
        assert np.array_equal(compass.infer({"image": raw}, form="raw")["scores"], real)
        with pytest.raises(InvalidInput, match="cooked"):
            compass.infer(raw, form="cooked")


@pytest.mark.parametrize("direct", [False, True])
def test_what_is_wrong_is_an_error_of_the_tree(short_path: Path, tmp_path: Path, direct: bool) -> None:
    (port,) = free_ports(1)
    address = short_path / "inference.sock" if direct else f"127.0.0.1:{port}"
    with serving(short_path, make_bundle(tmp_path), grpc=f"127.0.0.1:{port}") as process:
        with Inference(address, "sundial") as sundial, pytest.raises(NotFound, match=r"agent refused: .*'sundial'"):
            sundial.infer(ROWS)
        with Inference(address, "compass", timeout_s=5) as compass:
            with pytest.raises(InvalidInput, match="has shape"):
                compass.infer(ROWS[:, :2])
            with pytest.raises(InvalidInput, match="cannot be of type complex64"):
                compass.infer(ROWS * 1j)
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises((NotServing, RuntimeCrashed)):
                compass.infer(ROWS)


def test_without_a_model_it_says_so(short_path: Path) -> None:
    with (
        serving(short_path),
        Inference(short_path / "inference.sock", "compass") as compass,
        pytest.raises(NotServing, match="no model is active"),
    ):
        compass.infer(ROWS)


def test_where_there_is_no_direct_socket_it_asks_over_grpc(short_path: Path, tmp_path: Path) -> None:
    with serving(short_path, make_bundle(tmp_path)):
        with Inference(short_path / "inference.sock", "compass", shared_memory=True) as compass:
            expected = compass.infer(ROWS)["scores"]
        direct_path(short_path / "inference.sock").unlink()
        with Inference(short_path / "inference.sock", "compass", shared_memory=True) as compass:
            assert np.array_equal(compass.infer(ROWS)["scores"], expected)
            assert ours() == []


def test_a_client_finds_the_agent_by_whatever_it_answers_on(short_path: Path, tmp_path: Path) -> None:
    socket_path = short_path / "inference.sock"
    with Inference(socket_path, "compass", shared_memory=True) as compass:
        with pytest.raises(NotServing, match="no agent listens"):
            compass.infer(image=ROWS)
        made = make_bundle(tmp_path)
        with serving(short_path, made):
            expected = compass.infer(ROWS)["scores"]
            hidden = direct_path(socket_path).rename(short_path / "hidden")
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(direct_path(socket_path)))
            with Inference(socket_path, "compass") as late:  # nobody listens on the direct socket
                assert np.array_equal(late.infer(ROWS)["scores"], expected)
                direct_path(socket_path).unlink()
                assert np.array_equal(late.infer(ROWS)["scores"], expected)
                socket_path.rename(short_path / "grpc")
                with pytest.raises(NotServing, match="no agent listens"):
                    late.infer(ROWS)
                hidden.rename(direct_path(socket_path))
                assert np.array_equal(late.infer(ROWS)["scores"], expected)
        with pytest.raises(NotServing):
            compass.infer(ROWS)


def test_memory_is_shared_anew_with_a_new_runtime_and_after_all_regions_were_forgotten(
    short_path: Path, tmp_path: Path
) -> None:
    made = make_bundle(tmp_path)
    with Inference(short_path / "inference.sock", "compass", shared_memory=True) as compass:
        with serving(short_path, made):
            expected = compass.infer(ROWS)["scores"]
            forget = extensions.SystemSharedMemoryUnregisterRequest().SerializeToString()
            other = DirectChannel(direct_path(short_path / "inference.sock"))
            assert other.call(Method.SYSTEM_SHARED_MEMORY_UNREGISTER, forget, 20.0)[0] == 0
            other.close()
            assert np.array_equal(compass.infer(ROWS)["scores"], expected)
        with serving(short_path, made):
            assert np.array_equal(compass.infer(ROWS)["scores"], expected)
            assert ours() == []


DIES = """
import os, signal, sys
import numpy as np
from dsops.client import Inference
compass = Inference(sys.argv[1], "compass", shared_memory=True)
compass.infer(image=np.zeros((1, 4, 4, 1), np.float32))
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if not child:  # makes a region of its own, and leaves its parent's alone
        compass.infer(image=np.ones((1, 4, 4, 1), np.float32))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
compass.infer(image=np.zeros((1, 4, 4, 1), np.float32))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_memory_of_programs_that_died_is_given_back(short_path: Path, tmp_path: Path) -> None:
    address = short_path / "inference.sock"
    with serving(short_path, make_bundle(tmp_path)) as process:
        command = [sys.executable, "-c", DIES, str(address), str(MAX_REGIONS + 2)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
        status = extensions.SystemSharedMemoryStatusRequest().SerializeToString()
        channel = DirectChannel(direct_path(address))

        def is_given_back() -> bool:
            _, body = channel.call(Method.SYSTEM_SHARED_MEMORY_STATUS, status, 20.0)
            return not extensions.SystemSharedMemoryStatusResponse.FromString(body).regions

        eventually(is_given_back, "the last of them is still there, although nobody registers another")
        channel.close()
        assert not [link for link in _open_files(process.pid) if link.startswith("/dev/shm/")]


def _open_files(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return found


FORBIDDEN = """
import os, sys
import numpy as np
from dsops.client import Inference
from dsops.errors import Forbidden
os.setuid(65534)
for shared in (False, True):
    try:
        with Inference(sys.argv[1], "compass", shared_memory=shared) as compass:
            compass.infer(image=np.zeros((1, 4, 4, 1), np.float32))
    except Forbidden as error:
        print(error.hint)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_is_closed_to_the_user_is_said_to_be(short_path: Path, tmp_path: Path) -> None:
    closed = short_path / "run"
    closed.mkdir(0o700)
    with serving(closed, make_bundle(tmp_path)):
        command = [sys.executable, "-c", FORBIDDEN, str(closed / "inference.sock")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("let it through the folders above") == 2


def test_an_answer_to_another_request_is_none(short_path: Path) -> None:
    def answer_another(connection: socket.socket) -> None:
        framed = Framed(connection, 20.0)
        framed.receive()
        framed.send(0, pb.ModelInferResponse(model_name="compass", id="theirs").SerializeToString())

    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(short_path / "i.sock.direct"))
        listener.listen()
        served = pool.submit(lambda: answer_another(listener.accept()[0]))
        with (
            Inference(short_path / "i.sock", "compass") as compass,
            pytest.raises(RuntimeCrashed, match="answered another request"),
        ):
            compass.infer(image=ROWS, request_id="mine")
        served.result(20)


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), None, "3", np.ones(2)])
def test_a_time_that_nobody_can_wait_for_is_refused_at_once(short_path: Path, timeout_s: Any) -> None:
    with pytest.raises(InvalidInput, match=re.escape(f"more than 0 and up to 4294967 s: got {timeout_s!r}")):
        Inference(short_path / "inference.sock", "compass", timeout_s=timeout_s)


def test_a_program_that_asks_over_the_direct_socket_needs_no_grpc(short_path: Path, tmp_path: Path) -> None:
    program = """
import sys
import numpy as np
from dsops.client import Inference
with Inference(sys.argv[1], "compass") as compass:
    print(compass.infer(np.zeros((1, 4, 4, 1), np.float32))["scores"].shape, "grpc" in sys.modules)
"""
    with serving(short_path, make_bundle(tmp_path)):
        command = [sys.executable, "-c", program, str(short_path / "inference.sock")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "(1, 4) False"
