"""Real bundles for the tests of the data process: a linear classifier as a TFLite file, float or int8.

The classifier has one weight row a class; frame ``i`` of :func:`frames` lies near class ``i % CLASSES``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dsops.bundle import describe_blobs, encode_bundle, sha256_hex
from dsops.golden import GoldenSet, TensorBytes
from dsops.manifest import Limits, Manifest, TensorSpec
from dsops.profile import Profile, Signal
from dsops.signals import SIGNALS, bin_of, measure
from dsops_agent.runtime.litert import LoadedModel

CLASSES = 4
SHAPE = (4, 4, 1)
LABELS = ("north", "east", "south", "west")
FEATURES = 16


def prototypes() -> NDArray[np.float32]:
    return np.random.default_rng(5).uniform(0, 1, (CLASSES, FEATURES)).astype(np.float32)


def frames(count: int, seed: int = 0, noise: float = 0.15) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    rows = prototypes()[np.arange(count) % CLASSES] + rng.normal(0, noise, (count, FEATURES))
    return np.clip(rows, 0, 1).astype(np.float32).reshape(count, *SHAPE)


def tflite(*, int8: bool = True, gain: float = 4.0) -> bytes:
    """A model: reshape is left out by declaring the input [1, 4, 4, 1] to FULLY_CONNECTED, then SOFTMAX."""
    centred = prototypes() - 0.5
    weights = centred * gain
    bias = -(centred * centred).sum(axis=1) * gain / 2 - weights.sum(axis=1) * 0.5
    build = _Builder()
    if int8:
        scale_in, scale_w = 1 / 255, float(np.abs(weights).max() / 127)
        x = build.tensor("image", (1, *SHAPE), schema.TensorType.INT8, scale=scale_in, zero=-128)
        stored = np.clip(np.rint(weights / scale_w), -127, 127).astype(np.int8)
        w = build.tensor("weights", weights.shape, schema.TensorType.INT8, stored, scale_w)
        b = build.tensor(
            "bias",
            bias.shape,
            schema.TensorType.INT32,
            np.rint(bias / (scale_in * scale_w)).astype(np.int32),
            scale_in * scale_w,
        )
        y = build.tensor("logits", (1, CLASSES), schema.TensorType.INT8, scale=0.15)
        out = build.tensor("probabilities", (1, CLASSES), schema.TensorType.INT8, scale=1 / 256, zero=-128)
    else:
        x = build.tensor("image", (1, *SHAPE), schema.TensorType.FLOAT32)
        w = build.tensor("weights", weights.shape, schema.TensorType.FLOAT32, weights.astype(np.float32))
        b = build.tensor("bias", bias.shape, schema.TensorType.FLOAT32, bias.astype(np.float32))
        y = build.tensor("logits", (1, CLASSES), schema.TensorType.FLOAT32)
        out = build.tensor("probabilities", (1, CLASSES), schema.TensorType.FLOAT32)
    dense, softmax = schema.FullyConnectedOptionsT(), schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    build.operator(schema.BuiltinOperator.FULLY_CONNECTED, [x, w, b], [y], dense)
    build.operator(schema.BuiltinOperator.SOFTMAX, [y], [out], softmax)
    return build.finish(x, out)


class _Builder:
    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [schema.BufferT()], []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: int,
        data: NDArray[Any] | None = None,
        scale: float = 0.0,
        zero: int = 0,
    ) -> int:
        entry = schema.TensorT()
        entry.name, entry.shape, entry.type, entry.buffer = name, list(shape), kind, 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            entry.buffer = len(self.model.buffers) - 1
        if scale:
            entry.quantization = schema.QuantizationParametersT()
            entry.quantization.scale, entry.quantization.zeroPoint = [scale], [zero]
        self.graph.tensors.append(entry)
        return len(self.graph.tensors) - 1

    def operator(self, code: int, inputs: list[int], outputs: list[int], options: Any) -> None:
        operator_code = schema.OperatorCodeT()
        operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
        self.model.operatorCodes.append(operator_code)
        entry = schema.OperatorT()
        entry.opcodeIndex, entry.inputs, entry.outputs = len(self.model.operatorCodes) - 1, inputs, outputs
        entry.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        entry.builtinOptions = options
        self.graph.operators.append(entry)

    def finish(self, x: int, out: int) -> bytes:
        self.graph.inputs, self.graph.outputs = [x], [out]
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(4096)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


@dataclass(frozen=True)
class MadeBundle:
    path: Path
    digest: str
    manifest: Manifest


def make_bundle(
    folder: Path,
    *,
    release: int = 1,
    model: str = "compass",
    int8: bool = True,
    gain: float = 4.0,
    labels: tuple[str, ...] = LABELS,
    golden_labels: tuple[str, ...] | None = None,
    score_shift: float = 0.0,
    payload: bytes | None = None,
    limits: Limits | None = None,
    arl0: float = 1e6,
) -> MadeBundle:
    """Write a bundle; by default a right one. The keywords make it wrong in one way each."""
    right = tflite(int8=int8, gain=gain)
    loaded = LoadedModel(right)
    blobs = {
        "model.tflite": right if payload is None else payload,
        "profile.json": _profile(loaded, arl0).encode(),
        "golden.bin": _golden(loaded, golden_labels or LABELS, score_shift).encode(),
    }
    manifest = Manifest(
        model=model,
        release=release,
        variant="int8" if int8 else "float32",
        labels=labels,
        inputs=(_spec(loaded.inputs[0]),),
        outputs=(_spec(loaded.outputs[0]),),
        limits=limits or Limits(),
        blobs=describe_blobs(blobs),
    )
    data = encode_bundle(manifest, blobs)
    path = folder / f"{model}-{release}.bundle"
    path.write_bytes(data)
    return MadeBundle(path, sha256_hex(data), manifest)


def _spec(tensor: Any) -> TensorSpec:
    names = {"int8": "INT8", "float32": "FP32"}
    return TensorSpec(
        name=tensor.name,
        datatype=names[str(tensor.dtype)],
        shape=tensor.shape,
        scale=tensor.scale,
        zero_point=tensor.zero_point,
    )


def scores_of(loaded: LoadedModel, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([loaded.run([row[None]])[0] for row in rows])


def _golden(loaded: LoadedModel, labels: tuple[str, ...], score_shift: float) -> GoldenSet:
    rows = frames(8, seed=77, noise=0.02)
    scores = scores_of(loaded, rows) + np.float32(score_shift)
    return GoldenSet(
        inputs=TensorBytes("float32", rows.shape, rows.astype("<f4").tobytes()),
        scores=TensorBytes("float32", scores.shape, scores.astype("<f4").tobytes()),
        labels=tuple(labels[i % CLASSES] for i in range(8)),
        score_tolerance=0.05,
    )


def _profile(loaded: LoadedModel, arl0: float) -> Profile:
    rows = frames(600, seed=99)
    measured = [measure(row, scores) for row, scores in zip(rows, scores_of(loaded, rows), strict=True)]
    signals = []
    for name, kind in SIGNALS.items():
        values = np.array([row[name] for row in measured])
        if kind == "categorical":
            counts, edges = np.bincount(values.astype(int), minlength=CLASSES), ()
        else:
            inner = np.unique(np.quantile(values, np.arange(1, 10) / 10))
            edges = tuple(np.unique([values.min() - 1e-6, *inner, values.max() + 1e-6]).tolist())
            counts = np.bincount([bin_of(edges, value) for value in values], minlength=len(edges) + 1)
        signals.append(Signal(name=name, kind=kind, edges=edges, counts=tuple(counts.tolist())))
    return Profile(n_ref=len(rows), signals=tuple(signals), arl0=arl0)
