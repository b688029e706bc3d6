"""The programs in examples/ ask the data process and get its answers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import frames, make_bundle
from serving_runtime import serving

pytestmark = pytest.mark.integration
EXAMPLES = Path(__file__).parents[3] / "examples"
TOOLS = ("g++", "make", "pkg-config", "protoc", "grpc_cpp_plugin")
LIBRARIES = ("grpc++", "protobuf")
ROWS = frames(2, seed=2, noise=0.02)


def lacks() -> str:
    """Return what of a compiler for the C++ example is not installed; empty when nothing is."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    libraries = () if "pkg-config" in missing else LIBRARIES
    asked = {name: subprocess.run(["pkg-config", "--exists", name], check=False) for name in libraries}
    return ", ".join([*missing, *(name for name, done in asked.items() if done.returncode)])


@pytest.fixture
def compiler() -> None:
    """Skip, loudly and by name; where ``CPP_REQUIRED`` is set, as in CI, fail instead."""
    if missing := lacks():
        if os.environ.get("CPP_REQUIRED"):
            pytest.fail(f"C++ REQUIRED: {missing} not installed")
        pytest.skip(f"C++ EXAMPLE NOT BUILT: {missing} not installed; examples/cpp/Makefile names Debian's packages")


def run(command: list[str], data: bytes = b"", timeout_s: float = 60.0) -> str:
    done = subprocess.run(command, input=data, capture_output=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_the_example_in_python(short_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", ROWS)
    with serving(short_path, make_bundle(tmp_path)):
        command = [sys.executable, str(EXAMPLES / "python/ask.py"), str(short_path / "inference.sock"), "compass"]
        said = run([*command, str(tmp_path / "frames.npy")])
    assert "label ['north', 'east'] release 1" in said.splitlines()
    wrong = subprocess.run(command[:3], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (1, "usage: ask.py SOCKET MODEL FRAMES.npy\n")


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_the_example_in_cpp(short_path: Path, tmp_path: Path) -> None:
    run(["make", "-C", str(EXAMPLES / "cpp"), f"BUILD={tmp_path}/build"], timeout_s=900)
    with serving(short_path, make_bundle(tmp_path)):
        command = [f"{tmp_path}/build/ask", str(short_path / "inference.sock"), "compass", "image", "2,4,4,1"]
        said = run(command, ROWS.astype("<f4").tobytes())
        wrong = subprocess.run([*command[:-1], "1,4,4,1"], input=ROWS.tobytes(), capture_output=True, check=False)
    assert "label north east" in said.splitlines()
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(b"the agent refused: ")
    assert b"has 64 bytes" in wrong.stderr
    gone = subprocess.run(command, input=ROWS.tobytes(), capture_output=True, check=False)
    assert gone.returncode == 1
    assert gone.stderr.startswith(b"the agent did not answer: ")
