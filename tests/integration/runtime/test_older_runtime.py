"""A device with tflite-runtime answers as one with LiteRT does: proof, service, batches and swaps, in real processes.

The device's environment is made by ``make tflite``; this process, which asks and compares, has LiteRT.
"""

import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_bundles import MadeBundle, frames, make_bundle
from twice import compile_delegate, delegate, make_twice, needs_compiler

from dsops.bundle import Bundle, file_digest
from dsops.client import Inference
from dsops.errors import DsopsError
from dsops.golden_compare import distances
from dsops.manifest import Compatibility
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.golden import array_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
PYTHON = Path(os.environ.get("DSOPS_TFLITE_PYTHON") or ROOT / ".tools/tflite/bin/python")
SERVER = Path(__file__).with_name("bundle_server.py")
NETWORKS = sorted((ROOT / "firmware_bundles/golden/v1").glob("*.bundle"))
KNOWN = ("CONV_2D/1", "CONV_2D/3", "FULLY_CONNECTED/9", "SOFTMAX/2", "ADD/1", "GELU/1")
UNKNOWN = ("FULLY_CONNECTED/12", "CONV_2D/99", "NO_SUCH_OPERATOR/1", "custom:edgetpu-custom-op/1")


@pytest.fixture(scope="module")
def python() -> Path:
    if not PYTHON.exists():
        missing = f"{PYTHON} is not there: make tflite"
        if os.environ.get("TFLITE_REQUIRED"):
            pytest.fail(f"TFLITE REQUIRED: {missing}")
        pytest.skip(f"TFLITE-RUNTIME NOT TRIED: {missing}")
    return PYTHON


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a device installs, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as opened:
        opened.extractall(folder / "unpacked")
    return folder / "unpacked"


@dataclass
class Device:
    """A device whose agent has tflite-runtime."""

    process: subprocess.Popen[str]
    socket: Path
    facts: dict[str, Any]

    def put(self, path: Path) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "it ended"
        heard: dict[str, Any] = json.loads(line)
        return heard

    def libraries(self) -> set[str]:
        """Return the packages whose compiled parts the data process has loaded."""
        maps = Path(f"/proc/{self.facts['pid']}/maps").read_text()
        return set(re.findall(r"/site-packages/(tflite_runtime|ai_edge_litert)/", maps))


@contextmanager
def started(python: Path, wheel: Path, folder: Path, delegate: str = "") -> Iterator[Device]:
    command = [python, SERVER, folder, delegate, *KNOWN, *UNKNOWN]
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        made = Device(process, folder / "inference.sock", {})
        made.facts = made.hear()
        yield made


@pytest.fixture(scope="module")
def device(python: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with started(python, wheel, tmp_path_factory.mktemp("f")) as made:
        yield made


def test_its_environment_is_what_the_extra_asks_for(python: Path, wheel: Path) -> None:
    names = "import json, importlib.metadata as m; print(json.dumps([d.name.lower() for d in m.distributions()]))"
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    listed = subprocess.run([python, "-c", names], env=environment, capture_output=True, text=True, check=True)
    installed = set(json.loads(listed.stdout))
    assert {"dsops", "tflite-runtime", "numpy", "grpcio"} <= installed
    assert "ai-edge-litert" not in installed


def test_its_own_runtime_is_asked_which_operators_it_knows(device: Device) -> None:
    assert (device.facts["runtime"], device.facts["version"]) == ("tflite-runtime", "2.14.0")
    assert tuple(device.facts["missing"]) == UNKNOWN


@pytest.mark.parametrize("name", ["int8", "float32", *(path.stem for path in NETWORKS)])
def test_it_answers_as_litert_does_within_the_tolerance_of_the_bundle(
    device: Device, tmp_path: Path, name: str
) -> None:
    found = [path for path in NETWORKS if path.stem == name]
    path = found[0] if found else make_bundle(tmp_path, model=f"compass-{name}", int8=name == "int8").path
    served = load_bundle(Bundle.open(path), file_digest(path)[0], 1)
    assert device.put(path) == {"serves": served.digest}
    assert device.libraries() == {"tflite_runtime"}
    golden = served.golden()
    given = {tensor.name: array_of(tensor) for tensor in golden.inputs}
    wanted = served.infer(given).outputs
    with Inference(device.socket, served.manifest.model) as model:
        whole = model.infer(given)
        each = [model.infer({key: rows[i : i + 1] for key, rows in given.items()}) for i in range(len(golden))]
    assert whole.digest == served.digest
    for number, tolerance in enumerate(golden.tolerances):
        by_itself = np.concatenate([list(one.values())[number] for one in each])
        assert max(distances(wanted[number], by_itself)) <= tolerance
        assert max(distances(wanted[number], list(whole.values())[number])) <= tolerance


def test_no_answer_is_lost_while_it_changes_over(device: Device, tmp_path: Path) -> None:
    releases = [make_bundle(tmp_path, model="turns", release=n, gain=2.0 + n / 4) for n in range(1, 5)]
    assert device.put(releases[0].path) == {"serves": releases[0].digest}
    answers, problems, ended = Counter[str](), list[str](), threading.Event()
    asking = threading.Thread(target=ask_on, args=(device, releases[0], answers, problems, ended))
    asking.start()
    try:
        for release in releases[1:]:
            assert device.put(release.path) == {"serves": release.digest}
            until = answers[release.digest] + 5
            while answers[release.digest] < until and asking.is_alive():
                ended.wait(0.01)
    finally:
        ended.set()
        asking.join()
    assert problems == []
    assert set(answers) == {release.digest for release in releases}


def ask_on(
    device: Device, bundle: MadeBundle, answers: Counter[str], problems: list[str], ended: threading.Event
) -> None:
    """Ask again and again; the first problem ends it."""
    with Inference(device.socket, bundle.manifest.model) as model:
        while not ended.wait(0.005):
            try:
                answers[model.infer(frames(1)).digest] += 1
            except DsopsError as error:
                problems.append(str(error))
                return


def test_a_bundle_that_needs_litert_is_refused(device: Device, tmp_path: Path) -> None:
    path = make_bundle(tmp_path, model="newer", compatibility=Compatibility(min_litert="1.0")).path
    refused = device.put(path)
    assert refused["code"] == "incompatible.runtime"
    assert "tflite-runtime 2.14.0" in refused["message"]


@needs_compiler
@pytest.mark.parametrize(("mood", "problem"), [("", ""), ("refuse", "no such accelerator")])
def test_its_delegate_runs_what_only_that_brings_or_is_reported(
    python: Path, wheel: Path, short_path: Path, tmp_path: Path, mood: str, problem: str
) -> None:
    wanted = delegate(compile_delegate(tmp_path), mood)
    twice = make_twice(tmp_path)
    with started(python, wheel, short_path, wanted.model_dump_json()) as device:
        assert problem in device.facts["problem"]
        assert bool(device.facts["problem"]) is bool(problem)
        put = device.put(twice.path)
        if problem:
            assert put["code"] == "incompatible.delegate"
            return
        assert put == {"serves": twice.digest}
        with Inference(device.socket, "twice") as model:
            answer = model.infer(np.array([[1.0, -2.0, 0.5, 4.0]], np.float32))
        assert next(iter(answer.values())).tolist() == [[2.0, -4.0, 1.0, 8.0]]
