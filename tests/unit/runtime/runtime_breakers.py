"""Real bundles that pass every check and their golden inputs, and break the interpreter at certain inputs. LiteRT 2.3.

All take one INT32 and answer one INT32; ``sound`` breaks at none.

- ``dividing``: ``x mod -1``. The least INT32 overflows the processor's division: SIGFPE.
- ``endless``: multiplies [x, x] matrices, 48 times. With ``x`` = 4000 that takes minutes, and 200 MB.
"""

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from runtime_bundles import MadeBundle, ModelBuilder, Wanted, pack

from dsops.manifest import Budgets, Task

INT, FLOAT = schema.TensorType.INT32, schema.TensorType.FLOAT32
CRASHES = np.array([-(2**31)], np.int32)
"""The input at which ``dividing`` ends its process."""
HANGS = np.array([4000], np.int32)
"""The input from which ``endless`` does not come back."""
_PRODUCTS = 48


def modulo(divisor: int) -> bytes:
    build = ModelBuilder()
    x, y = build.tensor("x", (1,), INT), build.tensor("y", (1,), INT)
    by = build.tensor("by", (1,), INT, np.array([divisor], np.int32))
    build.operator(schema.BuiltinOperator.FLOOR_MOD, [x, by], [y], schema.FloorModOptionsT())
    return build.finish([x], [y])


def products() -> bytes:
    ops, build = schema.BuiltinOperator, ModelBuilder()
    x, side, one = build.tensor("x", (1,), INT), build.tensor("side", (1,), INT), np.ones(1, np.int32)
    least = build.tensor("least", (1,), INT, one)
    build.operator(ops.MAXIMUM, [x, least], [side], schema.MaximumMinimumOptionsT())
    sides, zero = build.tensor("sides", (2,), INT), build.tensor("zero", (), FLOAT, np.zeros((), np.float32))
    build.operator(ops.CONCATENATION, [side, side], [sides], schema.ConcatenationOptionsT())
    base = last = build.tensor("base", (1, 1), FLOAT)
    build.operator(ops.FILL, [sides, zero], [base], schema.FillOptionsT())
    for number in range(_PRODUCTS):
        product = build.tensor(f"product{number}", (1, 1), FLOAT)
        build.operator(ops.BATCH_MATMUL, [base, last], [product], schema.BatchMatMulOptionsT())
        last = product
    axes, total = build.tensor("axes", (2,), INT, np.array([0, 1], np.int32)), build.tensor("total", (), FLOAT)
    build.operator(ops.SUM, [last, axes], [total], schema.ReducerOptionsT())
    y, shape = build.tensor("flat", (1,), FLOAT), build.tensor("shape", (1,), INT, one)
    build.operator(ops.RESHAPE, [total, shape], [y], schema.ReshapeOptionsT())
    whole, cast = build.tensor("y", (1,), INT), schema.CastOptionsT()
    cast.inDataType, cast.outDataType = FLOAT, INT
    build.operator(ops.CAST, [y], [whole], cast)
    return build.finish([x], [whole])


def make_breaker(
    folder: Path, kind: str, release: int, model: str = "counter", budgets: Budgets | None = None
) -> MadeBundle:
    """Write a bundle; ``kind`` is sound, dividing or endless."""
    payload = {"sound": lambda: modulo(7), "dividing": lambda: modulo(-1), "endless": products}[kind]()
    wanted = Wanted(model=model, release=release, task=Task.OTHER, labels=(), budgets=budgets or Budgets())
    golden, reference = np.arange(5, dtype=np.int32), (np.arange(300) % 5).astype(np.int32)
    return pack(folder, payload, {"x": golden}, {"x": reference}, wanted)
