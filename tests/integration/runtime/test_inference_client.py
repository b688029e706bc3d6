"""The client of the distribution against the data process as the agent starts it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import LABELS, frames, make_bundle, with_section
from serving_runtime import serving

from dsops.client import Inference
from dsops.direct import direct_path
from dsops.errors import InvalidInput, NotFound, NotServing, RuntimeCrashed
from dsops.manifest import Preprocessing
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
        with Inference(address, "sundial") as sundial, pytest.raises(NotFound, match="no model 'sundial'"):
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
