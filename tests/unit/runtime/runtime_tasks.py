"""Real bundles of models of every task, each the smallest that shows what is its own.

- ``pair``: two inputs and two outputs, named by a signature; their sum and their difference. Task other.
- ``line``: a regression, the sum of four features.
- ``twin``: a reconstruction: each of four values becomes their mean, so frames of equal values are usual.
- ``lookup``: whole numbers in, a row of a table and the number itself out. Task other.
- ``flags``: truth values in and out. Task other.
- ``memory``: keeps what it saw in a variable tensor (SVDF).
- ``logits``: the compass without its softmax, and ``alarm``: one score of the second of two labels.
"""

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from runtime_bundles import CLASSES, LABELS, MadeBundle, ModelBuilder, Wanted, frames, pack, prototypes

from dsops.manifest import Budgets, Postprocessing, Task
from dsops_agent.runtime.litert import Array

FLOAT = schema.TensorType.FLOAT32
THRESHOLD = 0.04
TABLE = np.arange(15, dtype=np.float32).reshape(5, 3)


def pair_model(*, names: tuple[str, str] = ("left", "right")) -> bytes:
    build = ModelBuilder()
    a, b = build.tensor("arg0", (1, 4), FLOAT), build.tensor("arg1", (1, 4), FLOAT)
    total, off = build.tensor("out0", (1, 4), FLOAT), build.tensor("out1", (1, 4), FLOAT)
    build.operator(schema.BuiltinOperator.ADD, [a, b], [total], schema.AddOptionsT())
    build.operator(schema.BuiltinOperator.SUB, [a, b], [off], schema.SubOptionsT())
    return build.finish([a, b], [total, off], {a: names[0], b: names[1], total: "total", off: "label"})


def dense_model(weights: Array, output: str, *, activation: int = 0, bias: Array | None = None) -> bytes:
    build = ModelBuilder()
    x = build.tensor("x", (1, weights.shape[1]), FLOAT)
    w = build.tensor("weights", weights.shape, FLOAT, weights.astype(np.float32))
    b = build.tensor("bias", (len(weights),), FLOAT, np.zeros(len(weights), np.float32) if bias is None else bias)
    y = build.tensor(output, (1, len(weights)), FLOAT)
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation
    build.operator(schema.BuiltinOperator.FULLY_CONNECTED, [x, w, b], [y], options)
    return build.finish([x], [y])


def lookup_model() -> bytes:
    build = ModelBuilder()
    index = build.tensor("index", (1,), schema.TensorType.INT32)
    table = build.tensor("table", TABLE.shape, FLOAT, TABLE)
    row, same = build.tensor("row", (1, 3), FLOAT), build.tensor("same", (1,), schema.TensorType.INT64)
    build.operator(schema.BuiltinOperator.GATHER, [table, index], [row], schema.GatherOptionsT())
    cast = schema.CastOptionsT()
    cast.inDataType, cast.outDataType = schema.TensorType.INT32, schema.TensorType.INT64
    build.operator(schema.BuiltinOperator.CAST, [index], [same], cast)
    return build.finish([index], [row, same])


def flags_model() -> bytes:
    build = ModelBuilder()
    flags = build.tensor("flags", (1, 2), schema.TensorType.BOOL)
    others = build.tensor("others", (1, 2), schema.TensorType.BOOL)
    build.operator(schema.BuiltinOperator.LOGICAL_NOT, [flags], [others], schema.LogicalNotOptionsT())
    return build.finish([flags], [others])


def memory_model() -> bytes:
    """Return a model that answers with the sum of this frame's two values and those of the two frames before."""
    build = ModelBuilder()
    x = build.tensor("x", (1, 2), FLOAT)
    feature = build.tensor("feature", (1, 2), FLOAT, np.ones((1, 2), np.float32))
    time = build.tensor("time", (1, 3), FLOAT, np.ones((1, 3), np.float32))
    bias = build.tensor("bias", (1,), FLOAT, np.zeros(1, np.float32))
    state = build.tensor("state", (1, 3), FLOAT, keeps=True)
    y = build.tensor("sum", (1, 1), FLOAT)
    options = schema.SVDFOptionsT()
    options.rank = 1
    build.operator(schema.BuiltinOperator.SVDF, [x, feature, time, bias, state], [y], options)
    return build.finish([x], [y])


def features(count: int, seed: int, width: int = 4) -> Array:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def levels(count: int, seed: int, noise: float = 0.05) -> Array:
    """Frames of nearly equal values, as ``twin`` knows them."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(0, 1, (count, 1)) + rng.normal(0, noise, (count, 4))).astype(np.float32)


def make_pair(folder: Path, payload: bytes | None = None, *, shift: float = 0.0) -> MadeBundle:
    golden = {"left": features(6, 1), "right": features(6, 2)}
    reference = {"left": features(300, 3), "right": features(300, 4)}
    wanted = Wanted(model="pair", task=Task.OTHER, labels=(), shift=shift)
    return pack(folder, pair_model(), golden, reference, wanted, payload)


def make_line(folder: Path, budgets: Budgets | None = None) -> MadeBundle:
    wanted = Wanted(model="line", task=Task.REGRESSION, labels=(), budgets=budgets or Budgets())
    model = dense_model(np.ones((1, 4)), "sum")
    return pack(folder, model, {"x": features(6, 1)}, {"x": features(300, 2)}, wanted)


def make_twin(folder: Path, *, threshold: float | None = THRESHOLD, shift: float = 0.0) -> MadeBundle:
    rule = Postprocessing(threshold=threshold)
    wanted = Wanted(model="twin", task=Task.RECONSTRUCTION, labels=(), postprocessing=rule, shift=shift, tolerance=0.5)
    golden = np.concatenate([levels(4, 1), features(4, 2)])
    return pack(folder, dense_model(np.full((4, 4), 0.25), "again"), {"x": golden}, {"x": levels(300, 3)}, wanted)


def make_lookup(folder: Path) -> MadeBundle:
    wanted = Wanted(model="lookup", task=Task.OTHER, labels=())
    golden = {"index": np.arange(5, dtype=np.int32)}
    reference = {"index": (np.arange(300) % 5).astype(np.int32)}
    return pack(folder, lookup_model(), golden, reference, wanted)


def make_flags(folder: Path) -> MadeBundle:
    rows = np.array([[False, False], [False, True], [True, False], [True, True]])
    reference = {"flags": np.tile(rows, (60, 1))}
    return pack(folder, flags_model(), {"flags": rows}, reference, Wanted(model="flags", task=Task.OTHER, labels=()))


def make_memory(folder: Path) -> MadeBundle:
    wanted = Wanted(model="memory", task=Task.REGRESSION, labels=())
    return pack(folder, memory_model(), {"x": features(6, 1, 2)}, {"x": features(300, 2, 2)}, wanted)


def make_logits(folder: Path) -> MadeBundle:
    """A classifier whose scores become probabilities on the device; frames are flat."""
    weights = (prototypes() - 0.5) * 4
    model = dense_model(weights, "logits", bias=-(weights * (prototypes() + 0.5)).sum(axis=1).astype(np.float32) / 2)
    flat = {"x": frames(8, seed=77, noise=0.02).reshape(8, -1)}, {"x": frames(600, seed=99).reshape(600, -1)}
    labels = tuple(LABELS[i % CLASSES] for i in range(8))
    rule = Postprocessing(activation="softmax")
    return pack(folder, model, *flat, Wanted(model="logits", golden_labels=labels, postprocessing=rule))


def make_alarm(folder: Path, threshold: float = 0.8) -> MadeBundle:
    """A classifier of two labels with one score."""
    rule = Postprocessing(activation="sigmoid", threshold=threshold)
    golden = np.stack([np.full(4, value, np.float32) for value in (-1.0, -0.5, 0.2, 0.5, 1.0)])
    wanted = Wanted(
        model="alarm",
        labels=("calm", "alarm"),
        golden_labels=("calm", "calm", "calm", "alarm", "alarm"),
        postprocessing=rule,
    )
    return pack(folder, dense_model(np.ones((1, 4)), "score"), {"x": golden}, {"x": features(300, 2)}, wanted)
