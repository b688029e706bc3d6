"""Real bundles that pass every check and their golden inputs, and break the interpreter at certain inputs. LiteRT 2.3.

All take one INT32 and answer one INT32; ``sound`` breaks at none.

- ``dividing``: ``x mod -1``. The least INT32 overflows the processor's division: SIGFPE.
- ``endless``: multiplies [x, x] matrices, 48 times. With ``x`` = 4000 that takes minutes, and 200 MB.
- ``either``: both, so that one may run while another one crashes.
- ``choosy``: the products of ``endless``, and looks ``x`` up in a table. Below 0 there is none: the interpreter raises.
"""

from collections.abc import Callable, Mapping
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
FAILS = np.array([-1], np.int32)
"""The input that ``choosy`` does not answer."""
_PRODUCTS = 48
_TABLE = 4096


def modulo(divisor: int) -> bytes:
    build = ModelBuilder()
    x = build.tensor("x", (1,), INT)
    return build.finish([x], [_modulo(build, x, divisor)])


def products() -> bytes:
    build = ModelBuilder()
    x = build.tensor("x", (1,), INT)
    return build.finish([x], [_products(build, x)])


def products_and(other: Callable[[ModelBuilder, int], int]) -> bytes:
    """Return the products, after something else of the same input; both are 0 where nothing breaks."""
    build = ModelBuilder()
    x, y = build.tensor("x", (1,), INT), build.tensor("sum", (1,), INT)
    operands = [other(build, x), _products(build, x)]
    build.operator(schema.BuiltinOperator.ADD, operands, [y], schema.AddOptionsT())
    return build.finish([x], [y])


def _modulo(build: ModelBuilder, x: int, divisor: int) -> int:
    y, by = build.tensor("rest", (1,), INT), build.tensor("by", (1,), INT, np.array([divisor], np.int32))
    build.operator(schema.BuiltinOperator.FLOOR_MOD, [x, by], [y], schema.FloorModOptionsT())
    return y


def _looked_up(build: ModelBuilder, x: int) -> int:
    y, table = build.tensor("found", (1,), INT), build.tensor("table", (_TABLE,), INT, np.zeros(_TABLE, np.int32))
    build.operator(schema.BuiltinOperator.GATHER, [table, x], [y], schema.GatherOptionsT())
    return y


def _products(build: ModelBuilder, x: int) -> int:
    ops, side, one = schema.BuiltinOperator, build.tensor("side", (1,), INT), np.ones(1, np.int32)
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
    return whole


_PAYLOADS: Mapping[str, Callable[[], bytes]] = {
    "sound": lambda: modulo(7),
    "dividing": lambda: modulo(-1),
    "endless": products,
    "either": lambda: products_and(lambda build, x: _modulo(build, x, -1)),
    "choosy": lambda: products_and(_looked_up),
}


def make_breaker(
    folder: Path, kind: str, release: int, model: str = "counter", budgets: Budgets | None = None
) -> MadeBundle:
    """Write a bundle; ``kind`` is one of those above."""
    payload = _PAYLOADS[kind]()
    wanted = Wanted(model=model, release=release, task=Task.OTHER, labels=(), budgets=budgets or Budgets())
    golden, reference = np.arange(5, dtype=np.int32), (np.arange(300) % 5).astype(np.int32)
    return pack(folder, payload, {"x": golden}, {"x": reference}, wanted)
