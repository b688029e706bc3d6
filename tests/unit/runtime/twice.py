"""A real delegate, compiled here, that takes over a custom operator; and models that double."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import MadeBundle, ModelBuilder, Wanted, pack, schema

from dsops.manifest import Budgets, Task
from dsops_agent.runtime.delegate import Delegate

needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or platform.architecture()[0] != "64bit", reason="needs gcc, and 64 bits"
)
SOURCE = Path(__file__).with_name("twice_delegate.c")
FLOAT = schema.TensorType.FLOAT32
OPERATOR = "dsops-twice"


def compile_delegate(folder: Path) -> str:
    made = folder / "libtwice.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(made), str(SOURCE)], check=True)
    return str(made)


def delegate(
    library: str,
    mood: str = "",
    operators: tuple[str, ...] = (OPERATOR,),
    *,
    lock: Path | None = None,
    exclusive: bool = False,
) -> Delegate:
    options = {"mood": mood} | ({"lock": str(lock)} if lock else {})
    return Delegate(name="twice", library=library, options=options, operators=operators, exclusive=exclusive)


def twice_model(*, custom: bool) -> bytes:
    """A model that doubles: by a custom operator, or by adding the input to itself."""
    build = ModelBuilder()
    x, y = build.tensor("x", (1, 4), FLOAT), build.tensor("y", (1, 4), FLOAT)
    build.operator(schema.BuiltinOperator.ADD, [x, x], [y], schema.AddOptionsT())
    if custom:
        (code,), (operator,) = build.model.operatorCodes, build.graph.operators
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = OPERATOR
        operator.inputs, operator.builtinOptionsType, operator.builtinOptions = [x], 0, None
    return build.finish([x], [y])


def make_twice(folder: Path, release: int = 1, budgets: Budgets | None = None) -> MadeBundle:
    rng = np.random.default_rng(0)
    golden, reference = ({"x": rng.normal(size=(count, 4)).astype(np.float32)} for count in (8, 300))
    wanted = Wanted(model="twice", release=release, task=Task.OTHER, labels=(), budgets=budgets or Budgets())
    return pack(folder, twice_model(custom=False), golden, reference, wanted, twice_model(custom=True))
