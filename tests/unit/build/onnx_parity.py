"""Runs an ONNX model and its conversion side by side. Without a test runner: benchmarks use it too."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from dsops_controller.build.conversion.converters import ConvertedModel, DirectConverter

Arrays = dict[str, np.ndarray]
Reference = Callable[[bytes, Arrays], Arrays]


def random_inputs(model: onnx.ModelProto, seed: int = 5) -> Arrays:
    """Return one frame for each input; a free batch is 1. Indices are small enough for every table."""
    rng = np.random.default_rng(seed)
    constants = {entry.name for entry in model.graph.initializer}
    frames: Arrays = {}
    for info in model.graph.input:
        if info.name not in constants:
            kind = info.type.tensor_type
            shape = [dim.dim_value or 1 for dim in kind.shape.dim]
            whole = kind.elem_type in (TensorProto.INT32, TensorProto.INT64)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            frames[info.name] = (rng.integers(0, 5, shape) if whole else rng.standard_normal(shape)).astype(dtype)
    return frames


def by_onnxruntime(data: bytes, frames: Arrays) -> Arrays:
    """Return what onnxruntime gives, without rewriting the graph, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, frames), strict=True))


def by_specification(data: bytes, frames: Arrays) -> Arrays:
    """Return what ONNX's own reference evaluator gives."""
    model = onnx.load_from_string(data)
    names = [info.name for info in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(None, frames), strict=True))


def run_tflite(data: bytes, frames: Mapping[str, np.ndarray]) -> Arrays:
    """Return what LiteRT gives, by the names in the signature."""
    runner = Interpreter(model_content=data, num_threads=1).get_signature_runner()
    return {
        name: np.asarray(value)
        for name, value in runner(**{k: np.ascontiguousarray(v) for k, v in frames.items()}).items()
    }


def run_converted(model: ConvertedModel, frames: Arrays) -> Arrays:
    """Return what the conversion gives for ONNX's inputs."""
    return run_tflite(model.data, {name: model.as_input(name, values) for name, values in frames.items()})


def parity(data: bytes, reference: Reference = by_onnxruntime, seed: int = 5) -> float:
    """Return the largest difference of any output from the reference, over that output's largest absolute value."""
    frames = random_inputs(onnx.load_from_string(data), seed)
    expected, model = reference(data, frames), DirectConverter().convert(data)
    got = run_converted(model, frames)
    assert got.keys() == expected.keys()
    worst = 0.0
    for name, values in expected.items():
        wanted = model.as_output(name, np.asarray(values))
        assert got[name].shape == wanted.shape, (name, got[name].shape, wanted.shape)
        worst = max(worst, float(np.abs(got[name] - wanted).max() / max(np.abs(wanted).max(), 1e-9)))
    return worst
