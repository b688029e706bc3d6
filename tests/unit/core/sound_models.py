"""Valid TFLite models of several kinds, made as the build side makes them."""

from __future__ import annotations

from functools import cache

import numpy as np
from onnx_families import FAMILIES

from dsops_controller.build.conversion.convert import convert_onnx
from dsops_controller.build.data import DataSet
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantization.quantize import QuantMode, quantize

FRAMES = 4
_WHOLE = {"INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}


@cache
def float_model(family: str) -> bytes:
    return convert_onnx(FAMILIES[family]().SerializeToString())


@cache
def quantized_model(family: str, mode: QuantMode) -> bytes:
    return quantize(float_model(family), mode, _frames(float_model(family))).data


def _frames(data: bytes) -> DataSet:
    rng = np.random.default_rng(0)
    inputs = {}
    for spec in LitertModel(data).inputs:
        shape = (FRAMES, *spec.shape[1:])
        kind = _WHOLE.get(spec.datatype)
        drawn = rng.standard_normal(shape) if kind is None else rng.integers(0, 2, shape)
        inputs[spec.name] = drawn.astype(kind or np.float32)
    return DataSet(inputs)
