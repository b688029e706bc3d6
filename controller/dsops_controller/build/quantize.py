"""Quantizes a float TFLite model after training, with ai-edge-quantizer and no TensorFlow."""

from enum import StrEnum
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import quantizer, recipe

from dsops.errors import AccuracyGateFailed, InvalidModel, UnsupportedModel
from dsops_controller.build.arrays import Floats, check_frames
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quiet import quiet

_CHECKED_FRAMES = 16
_REFUSALS = (ValueError, RuntimeError, KeyError, IndexError, TypeError, NotImplementedError)
"""What the quantizer raises for a graph that it cannot quantize."""
_NARROW = (schema.TensorType.INT8, schema.TensorType.INT16)

Ranges = dict[str, dict[str, Any]]
"""Smallest and largest value of each tensor, by the tensor's name, in the quantizer's form."""


class QuantMode(StrEnum):
    """How numbers are stored and computed."""

    INT8 = "int8"
    """Weights and activations int8; smallest and fastest, needs calibration."""
    INT16X8 = "int16x8"
    """Weights int8, activations int16; closer to float, needs calibration."""
    DYNAMIC8 = "dynamic8"
    """Weights int8, activations float, quantized while it runs."""
    WEIGHT8 = "weight8"
    """Weights stored int8, computed in float."""


_RECIPES = {
    QuantMode.INT8: recipe.static_wi8_ai8,
    QuantMode.INT16X8: recipe.static_wi8_ai16,
    QuantMode.DYNAMIC8: recipe.dynamic_wi8_afp32,
    QuantMode.WEIGHT8: recipe.weight_only_wi8_afp32,
}


def quantize(float_model: bytes, calibration: Floats, mode: QuantMode = QuantMode.INT8) -> bytes:
    """Return the quantized model.

    Args:
        float_model: A float32 TFLite model with one signature, as :func:`read_model` gives it.
        calibration: Typical frames, float32 [N, H, W, C] or [N, F].
        mode: How numbers are stored and computed.

    Raises:
        InvalidInput: The calibration data has the wrong dtype or shape, or holds NaN.
        InvalidModel: The model is quantized already, or nothing in it can be.
        UnsupportedModel: The quantizer refuses the graph.
        AccuracyGateFailed: The result gives the same scores whatever it is shown.
    """
    original = LitertModel(float_model)
    check_frames(calibration, "the calibration data", original.input.shape[1:])
    if _narrow_tensors(float_model):
        raise InvalidModel("the model is quantized already", hint="give the float model")
    quantized = _quantize(float_model, calibration, mode)
    if not _narrow_tensors(quantized):
        raise InvalidModel(f"quantization to {mode} changed nothing", why="no operator of the model can be quantized")
    _refuse_constant_answer(original, LitertModel(quantized), calibration[:_CHECKED_FRAMES])
    return quantized


def _quantize(float_model: bytes, calibration: Floats, mode: QuantMode) -> bytes:
    try:
        with quiet():
            tool = quantizer.Quantizer(float_model, _RECIPES[mode]())
            ranges = _measure_ranges(tool, float_model, calibration) if tool.need_calibration else None
            result = tool.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
            return bytes(result.quantized_model)
    except _REFUSALS as error:
        raise UnsupportedModel(
            f"the model cannot be quantized to {mode}",
            why=str(error).split("\n", 1)[0],
            hint=f"choose another mode: {', '.join(other for other in QuantMode if other != mode)}",
        ) from error


def _measure_ranges(tool: quantizer.Quantizer, float_model: bytes, calibration: Floats) -> Ranges:
    """Return the exact range of every tensor over all frames.

    Each frame is measured by itself and the ranges are merged here: the quantizer's own merge is a moving average,
    which clips ranges and depends on the order of the frames.
    """
    key, name = _signature_input(float_model)
    merged: Ranges = {}
    for frame in calibration:
        found = tool.calibrate({key: [{name: frame[None]}]}, num_threads=1)
        _merge(merged, found)
    return merged


def _merge(merged: Ranges, found: Ranges) -> None:
    for name, one in found.items():
        known = merged.setdefault(name, one)
        if "min" in one and known is not one:
            known["min"] = np.minimum(known["min"], one["min"])
            known["max"] = np.maximum(known["max"], one["max"])


def _signature_input(model: bytes) -> tuple[str, str]:
    """Return a model's signature key and the name that its input has there."""
    entry = schema.ModelT.InitFromPackedBuf(model, 0).signatureDefs[0]
    return entry.signatureKey.decode(), entry.inputs[0].name.decode()


def _narrow_tensors(model: bytes) -> int:
    """Return how many tensors are int8 or int16."""
    graph = schema.ModelT.InitFromPackedBuf(model, 0).subgraphs[0]
    return sum(tensor.type in _NARROW for tensor in graph.tensors)


def _refuse_constant_answer(original: LitertModel, quantized: LitertModel, frames: Floats) -> None:
    """Refuse a graph that quantization broke so that it answers the same to everything; this has happened silently.

    Raises:
        AccuracyGateFailed: The float model tells these frames apart and the quantized one does not.
    """
    before, after = original.run(frames), quantized.run(frames)
    if (before != before[0]).any() and len(frames) > 1 and not (after != after[0]).any():
        raise AccuracyGateFailed(
            "the quantized model gives the same scores whatever it is shown",
            why="quantization broke the graph, or the calibration data does not resemble the model's input",
            frames=len(frames),
        )
