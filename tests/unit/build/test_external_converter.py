"""The external converter against small programs that honour onnx2tf's command line."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx_families import FAMILIES, Net
from onnx_parity import run_converted

from dsops.errors import InvalidModel, MissingExtra, UnsupportedModel
from dsops_controller.build.conversion.convert import read_converted
from dsops_controller.build.conversion.converters import DirectConverter
from dsops_controller.build.conversion.external import VARIABLE, ExternalConverter, find_external
from dsops_controller.build.conversion.tflite_writer import pack

MakeProgram = Callable[[str], Path]
IDENTITY = "shutil.copy(sys.argv[0] + '.tflite', out + '/model_float32.tflite')"


@pytest.fixture
def make_program(tmp_path: Path) -> MakeProgram:
    """Return a function that writes a program: its arguments are read as onnx2tf's, then it does what is given."""

    def make(body: str) -> Path:
        path = tmp_path / "venv" / "bin" / "onnx2tf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"#!{sys.executable}\n"
            "import argparse, os, resource, shutil, sys, time\n"
            "parser = argparse.ArgumentParser()\n"
            "parser.add_argument('-i'), parser.add_argument('-o'), parser.add_argument('-b', type=int)\n"
            "parser.add_argument('-coion', action='store_true'), parser.add_argument('-n', action='store_true')\n"
            "parser.add_argument('-kat', nargs='+')\n"
            "given = parser.parse_args()\n"
            "assert given.coion and given.b == 1\n"
            "open(given.i, 'ab').write(b'rewritten')\n"
            "out = given.o\n"
            "os.makedirs(out)\n"
            f"{body}\n"
        )
        path.chmod(0o755)
        return path

    return make


def strange() -> onnx.ModelProto:
    """Return a model with an operator that the built-in converter does not know, which changes nothing here."""
    net = Net()
    x = net.node("Relu", net.conv(net.input("image", [1, 3, 8, 6]), (3, 4, 3)))
    y = net.node("Relu", net.dense(net.input("row", [1, 5]), 5, 2))
    return net.model(map=net.node("ThresholdedRelu", x, alpha=0.0), level=y)


def known() -> bytes:
    """Return what an external converter would make of it."""
    proto = strange()
    for node in proto.graph.node:
        if node.op_type == "ThresholdedRelu":
            node.op_type = "Relu"
            del node.attribute[:]
    return DirectConverter().convert(proto.SerializeToString()).data


def test_what_the_built_in_converter_does_not_know_is_left_to_it(
    tmp_path: Path, make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make_program("assert given.kat == ['row']\n" + IDENTITY)
    Path(f"{program}.tflite").write_bytes(known())
    monkeypatch.setenv(VARIABLE, str(program))
    path = tmp_path / "m.onnx"
    path.write_bytes(strange().SerializeToString())
    model = read_converted(path)
    assert path.read_bytes() == strange().SerializeToString()
    assert (model.transposed_inputs, model.transposed_outputs) == ({"image"}, frozenset())
    frames = {"image": np.ones((1, 3, 8, 6), np.float32), "row": np.ones((1, 5), np.float32)}
    assert run_converted(model, frames)["map"].shape == (1, 8, 6, 4)


def test_what_the_built_in_converter_knows_is_not(
    tmp_path: Path, make_program: MakeProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(make_program("sys.exit(1)")))
    path = tmp_path / "m.onnx"
    path.write_bytes(FAMILIES["mlp"]().SerializeToString())
    assert read_converted(path).data


def test_without_one_the_operators_and_the_way_to_set_it_up_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "m.onnx"
    path.write_bytes(strange().SerializeToString())
    with pytest.raises(UnsupportedModel, match="ThresholdedRelu") as caught:
        read_converted(path)
    assert "pip install onnx2tf" in caught.value.hint
    assert VARIABLE in caught.value.hint


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "print('loading'); print('Einsum is not known', file=sys.stderr); sys.exit(3)",
            r"ended with 3: .*Einsum is not",
        ),
        ("os.abort()", "ended with"),
        ("pass", "wrote 0 float32 models"),
        ("bytearray(3 << 30)", "MemoryError"),
        ("time.sleep(60)", "had not finished after 1 s"),
    ],
)
def test_its_failures_are_told(make_program: MakeProgram, body: str, said: str) -> None:
    converter = ExternalConverter(make_program(body), timeout_s=1.0 if "sleep" in body else 60.0, memory_bytes=2 << 30)
    with pytest.raises(UnsupportedModel, match=said):
        converter.convert(strange().SerializeToString())


def test_what_it_started_ends_with_it(tmp_path: Path, make_program: MakeProgram) -> None:
    program = make_program(
        f"child = os.fork()\nopen({str(tmp_path / 'pid')!r}, 'a').write(f'{{os.getpid()}} ')\ntime.sleep(600)"
    )
    pids: list[int] = []
    for timeout_s in (2.0, 10.0, 60.0):  # a busy machine may not have started it when its time is over
        (tmp_path / "pid").write_text("")
        with pytest.raises(UnsupportedModel, match="had not finished"):
            ExternalConverter(program, timeout_s=timeout_s).convert(strange().SerializeToString())
        pids = [int(pid) for pid in (tmp_path / "pid").read_text().split()]
        if len(pids) == 2:
            break
    assert len(pids) == 2
    ends_s = time.monotonic() + 60
    while not all(
        _is_gone(pid) for pid in pids
    ):  # who is killed dies a moment later, and nobody waits for a grandchild
        assert time.monotonic() < ends_s, "something that it started runs still"
        time.sleep(0.01)


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def changed(change: Callable[[schema.ModelT], None]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(known())
    change(model)
    return pack(model)


def add_custom(model: schema.ModelT) -> None:
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"Strange"


def rename(model: schema.ModelT) -> None:
    model.signatureDefs[0].inputs[0].name = b"another"


def spoil(model: schema.ModelT) -> None:
    largest = max((buffer for buffer in model.buffers if buffer.data is not None), key=lambda one: one.data.size)
    largest.data = (largest.data.view(np.float32) * 1.5).view(np.uint8)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (changed(add_custom), "Strange, which no runtime knows"),
        (changed(rename), "takes another, row"),
        (changed(spoil), "output 'map' differs by"),
        (b"nothing like it", "TFL3"),
        (known()[:1000], "not sound"),
    ],
)
def test_a_result_that_cannot_run_is_refused(make_program: MakeProgram, result: bytes, said: str) -> None:
    program = make_program(IDENTITY)
    Path(f"{program}.tflite").write_bytes(result)
    with pytest.raises(UnsupportedModel, match=said):
        ExternalConverter(program).convert(strange().SerializeToString())


def test_an_unsound_model_is_never_given_to_it(make_program: MakeProgram, tmp_path: Path) -> None:
    program = make_program(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InvalidModel):
        ExternalConverter(program).convert(b"not a model")
    assert not (tmp_path / "ran").exists()


def test_it_is_found_by_its_path_its_environment_or_on_the_path(make_program: MakeProgram) -> None:
    program = make_program("pass")
    environment = program.parents[1]
    for given in ({VARIABLE: str(program)}, {VARIABLE: str(environment)}, {"PATH": str(program.parent)}):
        assert find_external(given) == ExternalConverter(program)
    assert find_external({"PATH": os.devnull}) is None


def test_a_path_that_names_nothing_is_an_error() -> None:
    with pytest.raises(MissingExtra, match="names no program") as caught:
        find_external({VARIABLE: "/nowhere/onnx2tf"})
    assert "pip install onnx2tf" in caught.value.hint
