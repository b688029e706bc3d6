"""Damaged models: most are refused by the lint, and what it lets through cannot hurt whoever starts the runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from runtime_bundles import Wanted, make_bundle, tflite
from runtime_bundles import pack as pack_bundle
from sound_models import float_model, quantized_model
from tflite_mutations import pack as pack_model
from tflite_mutations import random_mutants, semantic_mutants

from dsops.errors import DsopsError, InvalidModel
from dsops.manifest import Task
from dsops.tflite_lint import lint
from dsops_agent.install.ports import ProveLimits
from dsops_agent.proof import Prover
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantization.quantize import QuantMode

LEAST_SHARE = 0.70
CASES = 36
DEPTHWISE = schema.BuiltinOperator.DEPTHWISE_CONV_2D
PROVED_CASES = 120
LIMITS = ProveLimits(memory_bytes=4 << 30, timeout_s=30.0)


def models() -> Iterator[tuple[str, bytes]]:
    for family in ("lenet", "ds_cnn", "lstm", "transformer"):
        yield family, float_model(family)
    yield "lenet int8", quantized_model("lenet", QuantMode.INT8)


def passes(data: bytes) -> bool:
    """Say whether the lint accepts a file. Anything else that it raises fails the test."""
    try:
        lint(data)
    except InvalidModel:
        return False
    return True


@pytest.mark.parametrize("damage", [random_mutants, semantic_mutants])
def test_most_damaged_models_are_refused(damage: Callable[..., Iterator[bytes]]) -> None:
    shares = {}
    for name, data in models():
        assert passes(data)
        mutants = list(damage(data, CASES, seed=1))
        assert len(mutants) == CASES
        shares[name] = sum(not passes(mutant) for mutant in mutants) / CASES
    assert sum(shares.values()) / len(shares) >= LEAST_SHARE, shares


def test_damage_is_the_same_each_time() -> None:
    data = float_model("lenet")
    for damage in (random_mutants, semantic_mutants):
        assert list(damage(data, 12, seed=3)) == list(damage(data, 12, seed=3))
        assert list(damage(data, 12, seed=3)) != list(damage(data, 12, seed=4))


def kind(model: Any, operator: Any) -> int:
    return int(model.operatorCodes[operator.opcodeIndex].builtinCode)


def prove(path: Path) -> str:
    """Return what becomes of a bundle in the throw-away process: ``proved``, or the code of the error."""
    try:
        Prover(threads=1).prove(path, LIMITS)
    except DsopsError as error:
        return error.code
    return "proved"


@pytest.mark.slow
def test_what_passes_cannot_hurt_who_starts_the_runtime(tmp_path: Path) -> None:
    data = tflite(int8=True, gain=4.0)
    assert prove(make_bundle(tmp_path).path) == "proved"
    mutants = [*random_mutants(data, PROVED_CASES, seed=5), *semantic_mutants(data, PROVED_CASES, seed=5)]
    passed = [mutant for mutant in mutants if passes(mutant)]
    ends = Counter(prove(make_bundle(tmp_path, payload=mutant).path) for mutant in passed)
    assert len(passed) <= (1 - LEAST_SHARE) * len(mutants)
    assert ends.total() == len(passed)


@pytest.mark.slow
def test_a_payload_that_kills_the_runtime_never_reaches_it(tmp_path: Path) -> None:
    """A depthwise convolution of integers without a bias, which LiteRT 2.3 reads all the same, and dies."""
    right = quantized_model("ds_cnn", QuantMode.INT8)
    model: Any = schema.ModelT.InitFromPackedBuf(right, 0)
    deadly = next(operator for operator in model.subgraphs[0].operators if kind(model, operator) == DEPTHWISE)
    deadly.inputs = deadly.inputs[:2]
    assert not passes(pack_model(model))
    frames, wanted = spectra(300), Wanted(labels=(), task=Task.OTHER)
    golden = {name: rows[:8] for name, rows in frames.items()}
    for payload, end in ((right, "proved"), (pack_model(model), InvalidModel.code)):
        made = pack_bundle(tmp_path, right, golden, frames, wanted, payload)
        assert prove(made.path) == end


def spectra(count: int) -> dict[str, Any]:
    (spec,) = LitertModel(float_model("ds_cnn")).inputs
    return {spec.name: np.random.default_rng(1).standard_normal((count, *spec.shape[1:])).astype(np.float32)}
