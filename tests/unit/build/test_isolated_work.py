import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from tflite_graphs import changed, dense, drawn, embedding

from dsops.errors import AccuracyGateFailed, DsopsError, InvalidInput, InvalidModel
from dsops_controller.build.conversion.tflite_writer import Table
from dsops_controller.build.data import DataSet
from dsops_controller.build.isolated import CHILD, ProcessLimits, read_parts, run_isolated, write_parts
from dsops_controller.build.quantization.isolated import quantize_isolated
from dsops_controller.build.quantization.quantize import OperatorRule, QuantMode, quantize


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def step(self, name: str, total: int | None = None) -> None:
        self.said.append((name, total))

    def advance(self, units: int = 1) -> None:
        self.said.append(units)


@pytest.fixture(autouse=True)
def _work_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_parts_go_in_and_come_out_and_progress_is_told() -> None:
    told = Told()
    assert run_isolated("isolated_work:reverse", [b"abc", b"", bytes(1 << 20)], "it", progress=told) == [
        b"cba",
        b"",
        bytes(1 << 20),
    ]
    assert told.said == [("reverse", 3), 1, 1, 1]


def test_what_libraries_print_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_isolated("isolated_work:chatter", [b"abc"], "it") == [b"abc"]
    assert capfd.readouterr() == ("", "")


def test_an_expected_error_comes_back_as_it_is() -> None:
    with pytest.raises(AccuracyGateFailed) as caught:
        run_isolated("isolated_work:refuse", [], "it")
    error = caught.value
    assert (error.what, error.why, error.hint, error.details) == ("too bad", "it is", "do better", {"frames": 3})


@pytest.mark.parametrize(
    ("work", "limits", "said"),
    [
        ("crash", ProcessLimits(), r"the work crashed \(SIGSEGV\)"),
        ("hang", ProcessLimits(time_s=1.0), "the work took more than 1 s"),
        ("hoard", ProcessLimits(memory_bytes=1 << 30), "the work needs more than 1024 MiB of memory"),
        ("stumble", ProcessLimits(), 'the work failed: KeyError: "a library\'s own error"'),
        ("leave", ProcessLimits(), "the work failed: its process ended with code 0"),
    ],
)
def test_whatever_else_happens_is_an_error_with_a_code(work: str, limits: ProcessLimits, said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        run_isolated(f"isolated_work:{work}", [], "the work", limits)


@pytest.mark.parametrize("message", [b"no json \xff", b'{"advance": "x"}', b'{"error": {"code": "model.invalid"}}'])
def test_a_process_that_was_taken_over_cannot_say_what_it_likes(message: bytes) -> None:
    with pytest.raises(InvalidModel, match="told what is no message"):
        run_isolated("isolated_work:lie", [message], "the work")


def test_an_error_of_a_process_that_was_taken_over_holds_plain_facts_only() -> None:
    entry = {"code": "no.such", "message": "m", "why": "w", "hint": "h", "details": {"what": 1, "deep": [1], "n": 2}}
    with pytest.raises(DsopsError) as caught:
        run_isolated("isolated_work:lie", [json.dumps({"error": entry}).encode()], "the work")
    assert (caught.value.what, caught.value.details) == ("m", {"n": 2})


def test_a_result_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with path.open("wb") as stream:
        write_parts(stream, [b"abc", b"defgh"])
    path.write_bytes(path.read_bytes()[:8] + (1 << 40).to_bytes(8, "little") + b"abc")
    with path.open("rb") as stream, pytest.raises(InvalidModel, match="cut off"):
        read_parts(stream)


def test_a_process_that_hangs_is_gone_afterwards() -> None:
    told = Told()
    with pytest.raises(InvalidModel):
        run_isolated("isolated_work:hang", [], "it", ProcessLimits(time_s=1.0), told)
    (pid, _), *_ = told.said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


PARENT = """
from dsops_controller.build.isolated import run_isolated

class Told:
    def step(self, name, total=None):
        print(name, flush=True)

run_isolated("isolated_work:hang", [], "it", progress=Told())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_process_ends_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    try:
        assert select.select([child], [], [], 30.0)[0]  # readable once the process has ended
    finally:
        os.close(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_process_whose_parent_is_gone_already_does_nothing() -> None:
    with tempfile.TemporaryFile() as result:
        arguments = ["isolated_work:reverse", str(4 << 30), "9", str(result.fileno()), "1"]
        command = [sys.executable, "-m", CHILD, *arguments]
        done = subprocess.run(command, input=b"", capture_output=True, pass_fds=(result.fileno(),), check=False)
        assert (done.returncode, done.stdout, done.stderr, os.fstat(result.fileno()).st_size) == (1, b"", b"", 0)


def test_no_module_of_the_working_folder_is_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    assert run_isolated("isolated_work:reverse", [b"ab"], "it") == [b"ba"]


def test_quantization_apart_is_quantization() -> None:
    data, model, rules = DataSet({"x": drawn(10, 9)}), dense(9, 4, softmax=True), [OperatorRule("", "SOFTMAX")]
    told, here = Told(), Told()
    apart = quantize_isolated(model, QuantMode.INT8, data, rules, told)
    assert apart == quantize(model, QuantMode.INT8, data, rules, here)
    assert told.said == here.said


def test_quantization_apart_keeps_dtypes() -> None:
    data = DataSet({"x": np.random.default_rng(0).integers(0, 100, (20, 3)).astype(np.int32)})
    assert quantize_isolated(embedding(), QuantMode.INT8, data) == quantize(embedding(), QuantMode.INT8, data)


def test_quantization_apart_refuses_as_quantization_does() -> None:
    with pytest.raises(InvalidInput, match="int8 needs calibration data"):
        quantize_isolated(dense(9, 4), QuantMode.INT8)


def test_a_model_that_crashes_the_runtime_is_refused() -> None:
    """LiteRT 2.3 reads through a missing weight tensor; in this process it would end the tests."""
    with pytest.raises(InvalidModel, match=r"quantization to int8 crashed \(SIGSEGV\)|cannot"):
        quantize_isolated(changed(dense(7, 5), without_weights), QuantMode.INT8, DataSet({"x": drawn(4, 7)}))


def without_weights(table: Table) -> None:
    operator = table.subgraphs[0].operators[0]
    operator.inputs = [operator.inputs[0], -1, operator.inputs[2]]
