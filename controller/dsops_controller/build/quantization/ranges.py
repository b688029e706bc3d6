"""Measures the range of every tensor of a float model on calibration frames: exact smallest and largest values.

The quantizer's own calibration merges frames by a moving average, which clips ranges and depends on the frames' order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from dsops.errors import InvalidModel
from dsops_controller.build.data import DataSet, Floats
from dsops_controller.build.litert import signature_names
from dsops_controller.build.progress import Progress
from dsops_controller.build.quantization.graph import Graph
from dsops_controller.build.quiet import quiet

Ranges = dict[str, dict[str, Floats]]
"""``min`` and ``max`` of each tensor by its name, in the quantizer's form: one value, with the tensor's axes."""


def measure_ranges(float_model: bytes, calibration: DataSet, progress: Progress) -> Ranges:
    """Run every frame and return the range of each float tensor.

    Args:
        float_model: A model with a signature.
        calibration: Frames that were checked against the model's inputs.
        progress: Advanced by one a frame.

    Raises:
        InvalidModel: The model cannot be run, or gives NaN.
    """
    interpreter = _all_tensors_interpreter(float_model)
    names, _ = signature_names(interpreter)
    inputs = {names.get(int(entry["index"]), entry["name"]): entry for entry in interpreter.get_input_details()}
    computed = _computed_tensors(Graph(float_model))
    details = [entry for entry in interpreter.get_tensor_details() if int(entry["index"]) in computed]
    limits = {int(entry["index"]): (np.float32(np.inf), np.float32(-np.inf)) for entry in details}
    for row, frame in enumerate(_frames(calibration)):
        _run(interpreter, {int(entry["index"]): frame[name] for name, entry in inputs.items()}, row)
        for entry in details:
            index = int(entry["index"])
            limits[index] = _widened(limits[index], interpreter.get_tensor(index), f"{entry['name']!r} in frame {row}")
        progress.advance()
    return {entry["name"]: _as_range(limits[int(entry["index"])], len(entry["shape"])) for entry in details}


def matmul_ranges(float_model: bytes) -> Ranges:
    """Return the range of each constant operand of a BATCH_MATMUL, over the whole tensor.

    Left alone, the quantizer would give it a scale for each channel, of which the kernel reads the first one only: the
    result is zeros, without an error.
    """
    graph = Graph(float_model)
    found = {
        index
        for operator in graph.operators
        if operator.name == "BATCH_MATMUL"
        for index in operator.inputs
        if graph.tensors[index].constant and graph.tensors[index].type == schema.TensorType.FLOAT32
    }
    constants = {index: np.frombuffer(graph.constant(index), np.float32) for index in found}
    return {
        graph.tensors[index].name: _as_range((values.min(), values.max()), len(graph.tensors[index].shape))
        for index, values in constants.items()
    }


def constant_tensors(ranges: Ranges) -> list[str]:
    """Return the tensors that had one value everywhere."""
    return [name for name, found in ranges.items() if found["min"].min() == found["max"].max()]


def _all_tensors_interpreter(model: bytes) -> Interpreter:
    """Return an interpreter in which every tensor can be read after a run; it holds values of its own for each."""
    try:
        with quiet():  # it warns that this takes memory
            interpreter = Interpreter(model_content=model, num_threads=1, experimental_preserve_all_tensors=True)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InvalidModel("LiteRT cannot load the model", why=str(error).split("\n", 1)[0]) from error
    return interpreter


def _computed_tensors(graph: Graph) -> set[int]:
    """Return the float tensors that hold what depends on the input. Constants get a range for each channel later."""
    used = {index for operator in graph.operators for index in (*operator.inputs, *operator.outputs) if index >= 0}
    tensors = graph.tensors
    return {
        index
        for index in used | set(graph.inputs)
        if tensors[index].type == schema.TensorType.FLOAT32 and not tensors[index].constant and tensors[index].size
    }


def _frames(calibration: DataSet) -> Iterator[dict[str, Any]]:
    for row in range(len(calibration)):
        yield {name: values[row : row + 1] for name, values in calibration.inputs.items()}


def _run(interpreter: Interpreter, frame: Mapping[int, Any], row: int) -> None:
    try:
        interpreter.reset_all_variables()
        for index, values in frame.items():
            interpreter.set_tensor(index, values)
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise InvalidModel(
            f"LiteRT cannot run the model on calibration frame {row}", why=str(error).split("\n", 1)[0]
        ) from error


def _widened(limits: tuple[np.float32, np.float32], values: Floats, what: str) -> tuple[np.float32, np.float32]:
    """Return earlier frames' limits, widened by one more tensor. Infinities, as paddings have them, are left out."""
    low, high = values.min(), values.max()
    if np.isnan(low):
        raise InvalidModel(f"the float model gives NaN in tensor {what} of the calibration data")
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else limits
    return min(limits[0], low), max(limits[1], high)


def _as_range(limits: tuple[np.float32, np.float32], axes: int) -> dict[str, Floats]:
    low, high = limits if np.isfinite(limits[0]) else (np.float32(0), np.float32(0))
    return {"min": np.full((1,) * axes, low, np.float32), "max": np.full((1,) * axes, high, np.float32)}
