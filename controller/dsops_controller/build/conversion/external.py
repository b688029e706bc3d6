"""Converts with onnx2tf 2.x, a program of its own in an environment of its own, what the built-in converter cannot.

It is given a copy of the model in a temporary folder, because it rewrites its input. It runs without a terminal, within
a time and an address space, with the temporary folder as home, and needs no network. Its result is brought into the
form of ours and checked: an operator that no runtime knows makes it worthless, and so do answers that are not those of
onnxruntime. Both have been seen, without a word from the program.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsops.errors import InvalidModel, MissingExtra, UnsupportedModel
from dsops_controller.build.conversion.converters import ConvertedModel
from dsops_controller.build.conversion.graph import OnnxGraph
from dsops_controller.build.conversion.limits import MAX_MODEL_BYTES
from dsops_controller.build.conversion.reading import parse_onnx
from dsops_controller.build.conversion.tflite_writer import DAMAGE, Table, normalize_tflite
from dsops_controller.build.conversion.writing import TO_LAST
from dsops_controller.build.data import DataSet
from dsops_controller.build.evaluation.parity import measure_parity
from dsops_controller.build.litert import LitertModel

VARIABLE = "DSOPS_ONNX2TF"
SET_UP = (
    "set up the external converter: python3.12 -m venv onnx2tf && onnx2tf/bin/pip install onnx2tf && "
    f"export {VARIABLE}=$PWD/onnx2tf/bin/onnx2tf"
)
_PROGRAM = "onnx2tf"
_LIMITED = 'ulimit -v "$1" 2>/dev/null; shift; exec "$@"'
_SHOWN_LINES = 3
_SHOWN_CHARACTERS = 400
_LOG_BYTES = 1 << 16
_CHECKED_FRAMES = 3
_LARGEST_DIFFERENCE = 1e-3
"""Relative; what rounding explains is a hundredth of this, what a wrong operator does a hundred times it."""
_WHOLE = {"INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}


@dataclass(frozen=True)
class ExternalConverter:
    """Runs onnx2tf.

    Attributes:
        program: Its executable.
        timeout_s: How long it may run.
        memory_bytes: How much address space it may take.
    """

    program: Path
    timeout_s: float = 600.0
    memory_bytes: int = 16 << 30

    def convert(self, data: bytes) -> ConvertedModel:
        """Convert an ONNX file's bytes.

        Raises:
            InvalidModel: They are not a sound, self-contained ONNX model.
            UnsupportedModel: onnx2tf refuses the model, takes too long, or gives something that no runtime can run.
        """
        graph = parse_onnx(data)
        with tempfile.TemporaryDirectory(prefix="dsops-onnx2tf-") as name:
            folder = Path(name)
            (folder / "model.onnx").write_bytes(data)
            self._run(folder, graph)
            converted = _result(folder / "out")
        try:
            model = _described(normalize_tflite(converted), graph)
            _check_answers(data, model)
        except InvalidModel as error:
            raise UnsupportedModel("the external converter gave a model that cannot run", why=str(error)) from error
        return model

    def _run(self, folder: Path, graph: OnnxGraph) -> None:
        log = folder / "log"
        kept = [entry.name for entry in graph.inputs if len(entry.shape) != 4]
        options = ["-i", "model.onnx", "-o", "out", "-b", "1", "-coion", "-n", *(["-kat", *kept] if kept else [])]
        limited = ["/bin/sh", "-c", _LIMITED, "sh", str(self.memory_bytes >> 10), str(self.program), *options]
        with log.open("wb") as sink:
            try:
                code = _run_limited(limited, folder, sink.fileno(), self.timeout_s)
            except TimeoutError as error:
                why = f"it had not finished after {self.timeout_s:g} s"
                raise UnsupportedModel("the external converter took too long", why=why) from error
        if code != 0:
            raise UnsupportedModel(
                "the external converter cannot convert the model", why=f"it ended with {code}: {_tail(log)}"
            )


def find_external(environment: Mapping[str, str] = os.environ) -> ExternalConverter | None:
    """Return the converter that the environment names, or the one on the path, or nothing.

    Raises:
        MissingExtra: The environment names one that is not there.
    """
    named = environment.get(VARIABLE)
    if not named:
        found = shutil.which(_PROGRAM, path=environment.get("PATH"))
        return ExternalConverter(Path(found)) if found else None
    for program in (Path(named), Path(named) / "bin" / _PROGRAM):
        if program.is_file() and os.access(program, os.X_OK):
            return ExternalConverter(program.absolute())
    raise MissingExtra(f"{VARIABLE} names no program", why=f"{named} is not an executable file", hint=SET_UP)


def _run_limited(command: Sequence[str], folder: Path, log: int, timeout_s: float) -> int:
    """Return a program's exit code; at the end of its time it is killed with all that it started.

    Raises:
        TimeoutError: It took too long.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "TMPDIR": str(folder)}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - _LOG_BYTES, 0))
        text = stream.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return " | ".join(lines[-_SHOWN_LINES:])[-_SHOWN_CHARACTERS:] or "it said nothing"


def _result(folder: Path) -> bytes:
    found = sorted(folder.glob("*_float32.tflite"))
    if len(found) != 1 or found[0].is_symlink() or found[0].stat().st_size > MAX_MODEL_BYTES:
        raise UnsupportedModel("the external converter gave no model", why=f"it wrote {len(found)} float32 models")
    return found[0].read_bytes()


def _described(data: bytes, graph: OnnxGraph) -> ConvertedModel:
    """Return the result with what happened to its images.

    Raises:
        UnsupportedModel: It holds custom operators, or its inputs and outputs are not those of the source.
        InvalidModel: It is damaged.
    """
    try:
        model = schema.ModelT.InitFromPackedBuf(data)
        custom = [
            (code.customCode or b"").decode("utf-8", "replace")
            for code in model.operatorCodes
            if code.builtinCode == schema.BuiltinOperator.CUSTOM
        ]
        inputs, outputs = (_shapes(model, part) for part in ("inputs", "outputs"))
    except DAMAGE as error:
        raise InvalidModel("the external converter gave a damaged model", why=type(error).__name__) from error
    if custom:
        why = f"it holds {', '.join(sorted(custom))}, which no runtime knows"
        raise UnsupportedModel("the external converter gave a model that cannot run", why=why)
    if inputs.keys() != {entry.name for entry in graph.inputs} or outputs.keys() != set(graph.outputs):
        why = f"it takes {', '.join(sorted(inputs))} and gives {', '.join(sorted(outputs))}"
        raise UnsupportedModel("the external converter changed the names of inputs or outputs", why=why)
    moved = {
        entry.name for entry in graph.inputs if len(entry.shape) == 4 and _is_moved(entry.shape, inputs[entry.name])
    }
    return ConvertedModel(data, frozenset(moved), frozenset())


def _check_answers(source: bytes, model: ConvertedModel) -> None:
    """Run the source and the result on a few frames of noise; indices are zero.

    Raises:
        UnsupportedModel: Their answers differ by more than rounding explains.
        InvalidModel: LiteRT cannot run the result, or onnxruntime the source.
    """
    rng = np.random.default_rng(0)
    frames = {
        spec.name: rng.standard_normal((_CHECKED_FRAMES, *spec.shape[1:])).astype(np.float32)
        if spec.datatype == "FP32"
        else np.zeros((_CHECKED_FRAMES, *spec.shape[1:]), _WHOLE.get(spec.datatype, np.int64))
        for spec in LitertModel(model.data).inputs
    }
    worst = measure_parity(source, model.data, DataSet(frames), _CHECKED_FRAMES).worst
    if not worst.relative <= _LARGEST_DIFFERENCE:
        raise UnsupportedModel(
            "the external converter gave a model with other answers",
            why=f"output {worst.output!r} differs by {worst.relative:.2g} of its largest value from onnxruntime's",
        )


def _shapes(model: Table, part: str) -> dict[str, tuple[int, ...]]:
    tensors = model.subgraphs[0].tensors
    entries = getattr(model.signatureDefs[0], part)
    return {entry.name.decode(): tuple(int(size) for size in tensors[entry.tensorIndex].shape) for entry in entries}


def _is_moved(given: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Say whether an image has its channels last now; onnx2tf always moves those of inputs, and those of no output."""
    return found == tuple(given[axis] for axis in TO_LAST[4])
