"""Bundles that must never serve: the compass's golden inputs and answers, and a payload that is bad in one way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from runtime_bundles import (
    CLASSES,
    FEATURES,
    LABELS,
    SHAPE,
    MadeBundle,
    ModelBuilder,
    answers_of,
    make_bundle,
    prototypes,
    tensor_bytes,
    tflite,
)

from dsops.bundle import Bundle, describe_blobs, encode_bundle, sha256_hex
from dsops.golden import GoldenSet
from dsops.manifest import Preprocessing
from dsops.preprocess import prepare
from dsops_agent.runtime.golden import array_of
from dsops_agent.runtime.litert import LoadedModel

RELEASE = 2
WIDTH = 1024


def compass(
    *, layers: int = 0, products: int = 0, gain: float = 4.0, bias: float = 0.0, per_unit: float = 1.0
) -> bytes:
    """Return the float compass with ``layers`` idle layers of a million products each, which change no answer.

    ``bias`` is added to every logit; ``per_unit`` other than 1 expects pixels in another unit.
    """
    centred = prototypes() - 0.5
    build = ModelBuilder()
    kind = schema.TensorType.FLOAT32
    x = build.tensor("image", (1, *SHAPE), kind)
    w = build.tensor("weights", centred.shape, kind, (centred * gain * per_unit).astype(np.float32))
    offsets = -(centred * centred).sum(axis=1) * gain / 2 - (centred * gain).sum(axis=1) * 0.5 + bias
    b = build.tensor("bias", offsets.shape, kind, offsets.astype(np.float32))
    logits = build.tensor("logits", (1, CLASSES), kind)
    build.operator(schema.BuiltinOperator.FULLY_CONNECTED, [x, w, b], [logits], schema.FullyConnectedOptionsT())
    if layers:
        logits = _idle(build, x, logits, layers)
    if products:
        logits = _plod(build, x, logits, products)
    out = build.tensor("probabilities", (1, CLASSES), kind)
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    build.operator(schema.BuiltinOperator.SOFTMAX, [logits], [out], softmax)
    return build.finish([x], [out])


def _idle(build: ModelBuilder, x: int, logits: int, layers: int) -> int:
    """Add layers of zeros beside the network; what they say is added to the logits."""
    kind = schema.TensorType.FLOAT32

    def dense(source: int, inputs: int, outputs: int, weights: int | None = None) -> tuple[int, int]:
        if weights is None:
            weights = build.tensor("", (outputs, inputs), kind, np.zeros((outputs, inputs), np.float32))
        made = build.tensor("", (1, outputs), kind)
        operands = [source, weights, -1]
        build.operator(schema.BuiltinOperator.FULLY_CONNECTED, operands, [made], schema.FullyConnectedOptionsT())
        return made, weights

    found, _ = dense(x, FEATURES, WIDTH)
    shared: int | None = None
    for _ in range(layers):
        found, shared = dense(found, WIDTH, WIDTH, shared)
    found, _ = dense(found, WIDTH, CLASSES)
    total = build.tensor("sum", (1, CLASSES), kind)
    build.operator(schema.BuiltinOperator.ADD, [logits, found], [total], schema.AddOptionsT())
    return total


def _plod(build: ModelBuilder, x: int, logits: int, products: int) -> int:
    """Add products of matrices beside the network, four billion multiplications each."""
    kind = schema.TensorType.FLOAT32
    shape = (1, SHAPE[0], 1024, 1024)
    times = build.tensor("", (4,), schema.TensorType.INT32, np.array([1, 1, 256, 1024], np.int32))
    found = build.tensor("", shape, kind)
    build.operator(schema.BuiltinOperator.TILE, [x, times], [found], schema.TileOptionsT())
    for _ in range(products):
        made = build.tensor("", shape, kind)
        build.operator(schema.BuiltinOperator.BATCH_MATMUL, [found, found], [made], schema.BatchMatMulOptionsT())
        found = made
    axes = build.tensor("", (3,), schema.TensorType.INT32, np.array([1, 2, 3], np.int32))
    mean = build.tensor("", (1,), kind)
    build.operator(schema.BuiltinOperator.MEAN, [found, axes], [mean], schema.ReducerOptionsT())
    total = build.tensor("later", (1, CLASSES), kind)
    build.operator(schema.BuiltinOperator.ADD, [logits, mean], [total], schema.AddOptionsT())
    return total


def champion(folder: Path) -> MadeBundle:
    """Return the release that serves: two idle layers, so that slower can be told from slow."""
    return make_bundle(folder, release=1, int8=False, payload=compass(layers=2))


def _planted(folder: Path, payload: bytes, **more: Any) -> MadeBundle:
    return make_bundle(folder, release=RELEASE, int8=False, payload=payload, **more)


def good(folder: Path) -> MadeBundle:
    return _planted(folder, compass(layers=2))


def kills_the_loader(folder: Path) -> MadeBundle:
    return _planted(folder, deadly())


def deadly() -> bytes:
    """Return a depthwise convolution of integers without a bias: LiteRT 2.3 reads the bias all the same, and dies."""
    build = ModelBuilder()
    kind = schema.TensorType.INT8
    x = build.tensor("image", (1, *SHAPE), kind, scale=1 / 255, zero=-128)
    w = build.tensor("weights", (1, 3, 3, 1), kind, np.ones((1, 3, 3, 1), np.int8), 0.1)
    y = build.tensor("probabilities", (1, *SHAPE), kind, scale=0.1)
    options = schema.DepthwiseConv2DOptionsT()
    options.strideW = options.strideH = options.depthMultiplier = 1
    options.dilationWFactor = options.dilationHFactor = 1
    build.operator(schema.BuiltinOperator.DEPTHWISE_CONV_2D, [x, w], [y], options)
    return build.finish([x], [y])


def takes_all_memory(folder: Path) -> MadeBundle:
    """A picture of a quarter of a gigabyte is made of each frame, twice."""
    build = ModelBuilder()
    kind = schema.TensorType.FLOAT32
    x = build.tensor("image", (1, *SHAPE), kind)
    times = build.tensor("times", (4,), schema.TensorType.INT32, np.array([1, 1024, 1024, 3], np.int32))
    found = x
    for name in ("first", "second"):
        tiled = build.tensor(name, (1, 4096, 4096, 3), kind)
        build.operator(schema.BuiltinOperator.TILE, [x, times], [tiled], schema.TileOptionsT())
        found = tiled
    axes = build.tensor("axes", (2,), schema.TensorType.INT32, np.array([1, 2], np.int32))
    mean = build.tensor("mean", (1, 3), kind)
    build.operator(schema.BuiltinOperator.MEAN, [found, axes], [mean], schema.ReducerOptionsT())
    return _planted(folder, _with_answer(build, x, mean))


def _with_answer(build: ModelBuilder, x: int, mean: int) -> bytes:
    kind = schema.TensorType.FLOAT32
    weights = build.tensor("weights", (CLASSES, 3), kind, np.zeros((CLASSES, 3), np.float32))
    out = build.tensor("probabilities", (1, CLASSES), kind)
    build.operator(schema.BuiltinOperator.FULLY_CONNECTED, [mean, weights, -1], [out], schema.FullyConnectedOptionsT())
    return build.finish([x], [out])


def never_ends(folder: Path) -> MadeBundle:
    """An answer, after a very long time; a loop proper is refused unread."""
    return _planted(folder, compass(products=25))


def loops(folder: Path) -> MadeBundle:
    """A WHILE whose condition is always true."""
    data = compass()
    model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
    code = model.operatorCodes[0]
    code.builtinCode = schema.BuiltinOperator.WHILE
    code.deprecatedBuiltinCode = schema.BuiltinOperator.WHILE
    options = schema.WhileOptionsT()
    options.condSubgraphIndex = options.bodySubgraphIndex = 0
    operator = model.subgraphs[0].operators[0]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.WhileOptions, options
    return _planted(folder, _packed(model))


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def says_nan(folder: Path) -> MadeBundle:
    return _planted(folder, compass(bias=float("nan")))


def is_slower(folder: Path) -> MadeBundle:
    return _planted(folder, compass(layers=8))


def has_a_flipped_byte(folder: Path) -> MadeBundle:
    """The byte was flipped before the bundle was made: every digest is right."""
    payload = bytearray(compass(layers=2))
    weights = (prototypes() - 0.5).astype(np.float32) * np.float32(4.0)
    at = bytes(payload).index(weights.tobytes())
    assert payload[at + 3] & 0x7F == 0x3F
    payload[at + 3] ^= 0x7C  # the exponent of the first weight, which is some hundred times as heavy now
    return _planted(folder, bytes(payload))


def was_damaged_on_its_way(folder: Path) -> MadeBundle:
    """The byte was flipped afterwards."""
    made = good(folder)
    manifest = Bundle.open(made.path).manifest
    data = bytearray(made.path.read_bytes())
    data[-manifest.blob(manifest.payload).size_bytes // 2] ^= 1
    made.path.write_bytes(data)
    return made


def has_permuted_labels(folder: Path) -> MadeBundle:
    return _planted(folder, compass(layers=2), labels=(*LABELS[1:], LABELS[0]), golden_labels=LABELS)


def expects_other_pixels(folder: Path) -> MadeBundle:
    """Trained on 0 to 255, packed as if on 0 to 1."""
    return _planted(folder, compass(layers=2, per_unit=1 / 255))


def has_other_inputs(folder: Path) -> MadeBundle:
    """The payload is the quantized one, the manifest tells of the float one."""
    return _planted(folder, tflite(int8=True))


CAMERA = Preprocessing(
    input="image", layout="NHWC", color="GRAY", raw="UINT8", scale=(1 / 255,), resize="crop", interpolation="nearest"
)
"""How the camera's frames, wider than high, become the compass's input."""


def takes_frames(folder: Path) -> MadeBundle:
    """A right one whose golden inputs are frames of the camera."""
    return _with_frames(folder, CAMERA)


def takes_white_for_black(folder: Path) -> MadeBundle:
    """The golden frames are right; by the manifest's scale and offset, white is 0."""
    return _with_frames(folder, CAMERA.model_copy(update={"scale": (-1 / 255,), "offset": (1.0,)}))


def squeezes_the_frame(folder: Path) -> MadeBundle:
    """It was trained on the middle of a frame, and the manifest has all of it squeezed."""
    return _with_frames(folder, CAMERA.model_copy(update={"resize": "stretch"}))


def _with_frames(folder: Path, told: Preprocessing) -> MadeBundle:
    """Return the good bundle with golden frames of the camera, and a manifest that tells ``told`` of them."""
    opened = Bundle.open(good(folder).path)
    manifest = opened.manifest
    blobs = {blob.name: opened.read(blob.name) for blob in manifest.blobs}
    golden = GoldenSet.decode(blobs[manifest.golden])
    (spec,), loaded = manifest.inputs, LoadedModel(blobs[manifest.payload])
    middle = np.rint(array_of(golden.inputs[0]) * 255).astype(np.uint8)
    raw = np.pad(middle, ((0, 0), (0, 0), (4, 4), (0, 0)), constant_values=255)
    answers = answers_of(loaded, {"image": prepare(CAMERA, spec, raw)})
    seen = replace(
        golden,
        inputs=(tensor_bytes("image", raw),),
        outputs=(tensor_bytes("probabilities", answers[0]),),
        raw=("image",),
    )
    blobs[manifest.golden] = seen.encode()
    changed = manifest.model_copy(update={"preprocessing": (told,), "blobs": describe_blobs(blobs)})
    data = encode_bundle(changed, blobs)
    path = folder / "camera.bundle"
    path.write_bytes(data)
    return MadeBundle(path, sha256_hex(data), changed)
