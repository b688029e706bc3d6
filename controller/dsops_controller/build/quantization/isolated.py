"""Quantizes in a process of its own, for models of unknown origin: see :mod:`dsops_controller.build.isolated`."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from dsops_controller.build.data import DataSet
from dsops_controller.build.isolated import DEFAULT_LIMITS, ProcessLimits, run_isolated
from dsops_controller.build.progress import Progress, silent
from dsops_controller.build.quantization.quantize import OperatorRule, Quantized, QuantMode, quantize


def quantize_isolated(
    float_model: bytes,
    mode: QuantMode,
    calibration: DataSet | None = None,
    rules: Sequence[OperatorRule] = (),
    progress: Progress = silent,
    *,
    limits: ProcessLimits = DEFAULT_LIMITS,
) -> Quantized:
    """Do what :func:`~dsops_controller.build.quantization.quantize.quantize` does, in a process of its own.

    Raises:
        DsopsError: As there.
        InvalidModel: Also when the process crashed, or needed too much time or memory.
    """
    inputs = {} if calibration is None else dict(calibration.inputs)
    request = {
        "mode": mode,
        "rules": [asdict(rule) for rule in rules],
        "inputs": list(inputs),
        "calibrated": calibration is not None,
    }
    arrays = io.BytesIO()
    np.savez(arrays, *inputs.values())
    parts = [json.dumps(request).encode(), float_model, arrays.getvalue()]
    work = f"{__name__}:{work_quantize.__name__}"
    data, notes = run_isolated(work, parts, f"quantization to {mode}", limits, progress)
    return Quantized(data, tuple(json.loads(notes)))


def work_quantize(parts: Sequence[bytes], progress: Progress) -> list[bytes]:
    """Do the work in that process."""
    request = json.loads(parts[0])
    with np.load(io.BytesIO(parts[2]), allow_pickle=False) as arrays:
        inputs = {name: arrays[f"arr_{place}"] for place, name in enumerate(request["inputs"])}
    calibration = DataSet(inputs) if request["calibrated"] else None
    rules = [OperatorRule(rule["pattern"], rule["operator"], QuantMode(rule["mode"])) for rule in request["rules"]]
    result = quantize(parts[1], QuantMode(request["mode"]), calibration, rules, progress)
    return [result.data, json.dumps(result.notes).encode()]
