"""Real bundles for the tests of the data process: a linear classifier as a TFLite file, float or int8.

The classifier has one weight row a class; frame ``i`` of :func:`frames` lies near class ``i % CLASSES``. Bundles of
models of other tasks are in ``runtime_tasks``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from dsops.bundle import Bundle, describe_blobs, encode_bundle, sha256_hex
from dsops.decision import decide
from dsops.golden import GoldenSet, TensorBytes
from dsops.manifest import (
    Attachment,
    Budgets,
    Compatibility,
    Manifest,
    Postprocessing,
    Preprocessing,
    Task,
    TensorSpec,
)
from dsops.profile import Profile, Signal
from dsops.signals import bin_of, measure, signals_of, watched_inputs
from dsops_agent.runtime.litert import Array, LoadedModel

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
    build = ModelBuilder()
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
    return build.finish([x], [out])


class ModelBuilder:
    """Writes a TFLite file, tensor by tensor and operator by operator."""

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
        *,
        keeps: bool = False,
    ) -> int:
        entry = schema.TensorT()
        entry.name, entry.shape, entry.type, entry.buffer = name, list(shape), kind, 0
        entry.isVariable = keeps
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

    def finish(self, inputs: list[int], outputs: list[int], names: Mapping[int, str] | None = None) -> bytes:
        """Return the file; ``names`` are those of a signature, by tensor."""
        self.graph.inputs, self.graph.outputs = inputs, outputs
        self.model.subgraphs = [self.graph]
        if names:
            self.model.signatureDefs = [self._signature(names)]
        builder = flatbuffers.Builder(4096)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _signature(self, names: Mapping[int, str]) -> Any:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [self._named(index, names[index]) for index in self.graph.inputs]
        signature.outputs = [self._named(index, names[index]) for index in self.graph.outputs]
        return signature

    def _named(self, index: int, name: str) -> Any:
        entry = schema.TensorMapT()
        entry.tensorIndex, entry.name = index, name
        return entry


@dataclass(frozen=True)
class MadeBundle:
    path: Path
    digest: str
    manifest: Manifest


@dataclass(frozen=True)
class Wanted:
    """What a bundle is made of besides its payload; the defaults are those of the compass."""

    model: str = "compass"
    release: int = 1
    task: Task = Task.CLASSIFICATION
    postprocessing: Postprocessing = field(default_factory=Postprocessing)
    labels: tuple[str, ...] = LABELS
    golden_labels: tuple[str, ...] = ()
    golden_rows: int = 8
    shift: float = 0.0
    tolerance: float = 0.05
    budgets: Budgets = field(default_factory=Budgets)
    compatibility: Compatibility = field(default_factory=Compatibility)
    arl0: float = 1e6
    files: Mapping[str, bytes] = field(default_factory=dict)


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
    budgets: Budgets | None = None,
    compatibility: Compatibility | None = None,
    postprocessing: Postprocessing | None = None,
    files: Mapping[str, bytes] | None = None,
    arl0: float = 1e6,
) -> MadeBundle:
    """Write a bundle of the compass; by default a right one. The keywords make it wrong in one way each."""
    expected = golden_labels or LABELS
    wanted = Wanted(
        model=model,
        release=release,
        labels=labels,
        golden_labels=tuple(expected[i % CLASSES] for i in range(8)),
        shift=score_shift,
        budgets=budgets or Budgets(),
        compatibility=compatibility or Compatibility(),
        postprocessing=postprocessing or Postprocessing(),
        arl0=arl0,
        files=files or {},
    )
    golden, reference = {"image": frames(8, seed=77, noise=0.02)}, {"image": frames(600, seed=99)}
    return pack(folder, tflite(int8=int8, gain=gain), golden, reference, wanted, payload)


def with_section(bundle: MadeBundle, section: Preprocessing) -> MadeBundle:
    """The same bundle with a preprocessing, as its manifest tells it."""
    opened = Bundle.open(bundle.path)
    manifest = Manifest.model_validate(bundle.manifest.model_dump() | {"preprocessing": (section.model_dump(),)})
    data = encode_bundle(manifest, {blob.name: opened.read(blob.name) for blob in manifest.blobs})
    bundle.path.write_bytes(data)
    return MadeBundle(bundle.path, sha256_hex(data), manifest)


def pack(
    folder: Path,
    right: bytes,
    golden: Mapping[str, Array],
    reference: Mapping[str, Array],
    wanted: Wanted,
    payload: bytes | None = None,
) -> MadeBundle:
    """Write a bundle of any model.

    Args:
        folder: Where.
        right: The model that golden inputs and profile are made with.
        golden: Golden inputs by name, [N, ...].
        reference: Reference frames by name, [M, ...].
        wanted: The rest.
        payload: What the bundle holds instead of the right model.
    """
    loaded = LoadedModel(right)
    inputs, outputs = tuple(map(_spec, loaded.inputs)), tuple(map(_spec, loaded.outputs))
    blobs = {
        "model.tflite": right if payload is None else payload,
        "profile.json": _profile(loaded, inputs, reference, wanted).encode(),
        "golden.bin": _golden(loaded, golden, wanted).encode(),
        **wanted.files,
    }
    manifest = Manifest(
        model=wanted.model,
        release=wanted.release,
        task=wanted.task,
        postprocessing=wanted.postprocessing,
        labels=wanted.labels,
        inputs=inputs,
        outputs=outputs,
        budgets=wanted.budgets,
        compatibility=wanted.compatibility,
        files=tuple(Attachment(blob=name, kind="config") for name in wanted.files),
        blobs=describe_blobs(blobs),
    )
    data = encode_bundle(manifest, blobs)
    path = folder / f"{wanted.model}-{wanted.release}.bundle"
    path.write_bytes(data)
    return MadeBundle(path, sha256_hex(data), manifest)


def _spec(tensor: Any) -> TensorSpec:
    names = {"int8": "INT8", "float32": "FP32", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}
    return TensorSpec(
        name=tensor.name,
        datatype=names[str(tensor.dtype)],
        shape=tensor.shape,
        scale=tensor.scale,
        zero_point=tensor.zero_point,
    )


def answers_of(loaded: LoadedModel, rows: Mapping[str, Array]) -> list[Array]:
    """Return every output [N, ...] of frames [N, ...]."""
    ordered = [rows[tensor.name] for tensor in loaded.inputs]
    found = [loaded.run([given[row : row + 1] for given in ordered]) for row in range(len(ordered[0]))]
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def scores_of(loaded: LoadedModel, rows: NDArray[np.float32]) -> Array:
    return answers_of(loaded, {loaded.inputs[0].name: rows})[0]


def _golden(loaded: LoadedModel, rows: Mapping[str, Array], wanted: Wanted) -> GoldenSet:
    outputs = answers_of(loaded, rows)
    shifted = [out + np.float32(wanted.shift) if out.dtype == np.float32 else out for out in outputs]
    return GoldenSet(
        inputs=tuple(tensor_bytes(tensor.name, rows[tensor.name]) for tensor in loaded.inputs),
        outputs=tuple(tensor_bytes(t.name, out) for t, out in zip(loaded.outputs, shifted, strict=True)),
        tolerances=(wanted.tolerance,) * len(outputs),
        labels=wanted.golden_labels,
    )


def tensor_bytes(name: str, values: Array) -> TensorBytes:
    dtype: Any = str(values.dtype)
    return TensorBytes(name, dtype, values.shape, values.astype(values.dtype.newbyteorder("<")).tobytes())


def _profile(loaded: LoadedModel, specs: Sequence[TensorSpec], rows: Mapping[str, Array], wanted: Wanted) -> Profile:
    outputs = answers_of(loaded, rows)
    given = [rows[spec.name] for spec in specs]
    scores = decide(wanted.task, wanted.postprocessing, given, outputs).scores
    measured = measure(wanted.task, [(at, given[at]) for at in watched_inputs(specs)], outputs[0], scores)
    signals = []
    for name, kind in signals_of(wanted.task, specs).items():
        values = np.array(measured[name])
        if kind == "categorical":
            counts, edges = np.bincount(values.astype(int), minlength=max(len(wanted.labels), 2)), ()
        else:
            inner = np.unique(np.quantile(values, np.arange(1, 10) / 10))
            edges = tuple(np.unique([values.min() - 1e-6, *inner, values.max() + 1e-6]).tolist())
            counts = np.bincount([bin_of(edges, value) for value in values], minlength=len(edges) + 1)
        signals.append(Signal(name=name, kind=kind, edges=edges, counts=tuple(counts.tolist())))
    return Profile(n_ref=len(given[0]), signals=tuple(signals), arl0=wanted.arl0)
