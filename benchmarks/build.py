"""What a build costs and how good its result is: our build against onnx2tf and against TensorFlow's TFLiteConverter.

All begin with the same float weights and calibration frames, each conversion once, in a process of its own. The large
networks have drawn weights, for time, memory, parity and latency; accuracy is that of two networks on real digits.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import peers
from measure.fitted import Fitted, digits_network, mobilenet_network
from measure.networks import Floats, Network, mobilenet_v2, resnet18, with_softmax
from measure.onnx_file import to_onnx
from measure.peers import Cost
from measure.report import Limit, Report, Row, run
from measure.textures import Textures, fit_head, textures

from dsops.errors import RuntimeCrashed
from dsops_controller.build.litert import LitertModel

SEED = 0
ONNX2TF, KERAS = "onnx2tf", "TFLiteConverter"
CALIBRATION_COUNT = 32
PARITY_COUNT = 8
FRAMES_COUNT = 200
"""A drift profile wants no fewer."""
PAIRS = 300
WARM_UP = 10
LATENCY_FRAMES = 20

SECONDS_LIMIT = Limit("figure", "<=", 20.0)
MEMORY_LIMIT = Limit("figure", "<=", 700.0)
PARITY_LIMIT = Limit("figure", "<=", 1e-5)
AS_GOOD = Limit("ratio", ">=", 0.98)
AS_QUICK = Limit("figure", "<=", 1 / 0.98)


@dataclass(frozen=True)
class Result:
    """What one contender made: a file, and what that took. Without a file, ``note`` says why."""

    file: Path | None
    cost: Cost | None = None
    note: str = ""

    @property
    def took_s(self) -> float | None:
        """Wall time, if there was a run."""
        return self.cost.took_s if self.cost else None

    @property
    def peak_mb(self) -> float | None:
        """Peak memory, if there was a run."""
        return self.cost.peak_mb if self.cost else None

    def against(self, peer: str) -> str:
        """Return how a row names this contender."""
        return f"{peer}: {self.note}" if self.note else peer


@dataclass(frozen=True)
class Contest:
    """One network, converted and quantized by everybody."""

    name: str
    folder: Path
    ours_float: Result
    ours: Result
    onnx2tf_float: Result
    onnx2tf: Result
    keras: Result


def contest(folder: Path, network: Network, model: bytes, calibration: Floats) -> Contest:
    """Let everybody convert and quantize one network."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model)
    (folder / "plan.json").write_text(network.plan())
    np.savez(folder / "weights.npz", allow_pickle=False, **network.weights)
    np.savez(folder / "calibration.npz", x=calibration)
    np.save(folder / "calibration.npy", calibration)
    plain, quantized = convert_ours(folder)
    return Contest(
        network.name,
        folder,
        plain,
        quantized,
        convert_onnx2tf(folder, "copy_float32.tflite"),
        convert_onnx2tf(folder, "copy_full_integer_quant.tflite", *_quantizing(network.channels)),
        convert_keras(folder),
    )


def convert_ours(folder: Path) -> tuple[Result, Result]:
    """Convert, then quantize; the second result's cost is that of both."""
    plain, quantized = folder / "ours-float.tflite", folder / "ours-int8.tflite"
    step = (sys.executable, "-m", "measure.ours")
    first = peers.timed(folder, *step, "convert", folder / "model.onnx", plain)
    second = peers.timed(folder, *step, "quantize", plain, folder / "calibration.npz", quantized)
    both = Cost(first.took_s + second.took_s, first.cpu_s + second.cpu_s, max(first.peak_mb, second.peak_mb))
    return Result(plain, first), Result(quantized, both)


def convert_onnx2tf(folder: Path, wanted: str, *options: str) -> Result:
    """Let onnx2tf convert; what it wrote before it failed does not count."""
    if peers.onnx2tf() is None:
        return Result(None, note="not installed")
    own = folder / f"onnx2tf-{wanted.removesuffix('.tflite')}"
    own.mkdir()
    try:
        cost = peers.convert_by_onnx2tf(own, folder / "model.onnx", *options)
    except RuntimeCrashed as error:
        sys.stderr.write(f"{' '.join([ONNX2TF, *options[:1]])} failed: {str(error).splitlines()[-1]}\n")
        return Result(None, note="failed")
    return Result(own / wanted, cost)


def convert_keras(folder: Path) -> Result:
    """Let TFLiteConverter quantize the same network, built in Keras."""
    if peers.tensorflow_python() is None:
        return Result(None, note="not installed")
    return Result(folder / "int8.tflite", peers.convert_by_keras(folder))


def cost_rows(made: Contest) -> Iterator[Row]:
    """Yield time, memory and size."""
    contenders = (
        ("convert", made.ours_float, made.onnx2tf_float, ONNX2TF),
        ("convert and quantize", made.ours, made.onnx2tf, f"{ONNX2TF} -oiqt"),
        ("convert and quantize", made.ours, made.keras, KERAS),
    )
    for what, ours, peer, peer_name in contenders:
        name, against = f"{made.name}: {what}", peer.against(peer_name)
        yield Row(name, "s", ours.took_s, peer.took_s, against)
        yield Row(f"{name}, peak", "MB", ours.peak_mb, peer.peak_mb, against)
    yield Row(f"{made.name}: int8 file", "kB", _kilobytes(made.ours), _kilobytes(made.keras), made.keras.against(KERAS))


def parity_rows(made: Contest, frames: Floats) -> Iterator[Row]:
    """Yield how far the float models are from onnxruntime, which is in onnx2tf's environment."""
    name = f"{made.name}: float, from onnxruntime"
    if peers.onnx2tf_python() is None:
        yield Row(f"{name} (not installed)", "of largest", None)
        return
    np.savez(made.folder / "parity.npz", x=frames)
    files = [made.ours_float.file, made.onnx2tf_float.file]
    found = peers.parity(made.folder / "model.onnx", made.folder / "parity.npz", *[file for file in files if file])
    peer = found[1] if len(found) > 1 else None
    yield Row(name, "of largest", found[0], peer, made.onnx2tf_float.against(ONNX2TF), PARITY_LIMIT)


def latency_rows(made: Contest, frames: Floats, limit: Limit | None) -> Iterator[Row]:
    """Yield the processor time of one int8 inference, quantizing the frame included, and ours over the peer's in pairs.

    The two take turns frame by frame, and a pair's ratio hardly depends on what else the machine does. For networks of
    microseconds the clock decides, so these get no limit.
    """
    ours, peer = _load(made.ours), _load(made.keras)
    assert ours is not None
    name, against = f"{made.name}: int8 inference", made.keras.against(KERAS)
    pairs = _pairs(ours, peer or ours, frames)
    yield Row(f"{name}, p50", "ms", _median_ms(pairs[:, 0]), _median_ms(pairs[:, 1]) if peer else None, against)
    if peer is not None:
        ratio = float(np.median(pairs[:, 0] / pairs[:, 1]))
        yield Row(f"{name}, pairs", "ours / peer", ratio, against=against, limit=limit)


def _pairs(first: LitertModel, second: LitertModel, frames: Floats) -> Floats:
    """Return the processor time of both on one frame after the other, [PAIRS, 2] in nanoseconds."""
    taken = np.zeros((WARM_UP + PAIRS, 2), np.float32)
    for number, row in enumerate(taken):
        frame = frames[number % len(frames)][None]
        for which in (0, 1) if number % 2 else (1, 0):
            start_ns = time.thread_time_ns()
            (first, second)[which].run(frame)
            row[which] = time.thread_time_ns() - start_ns
    return taken[WARM_UP:]


def _median_ms(taken_ns: Floats) -> float:
    return float(np.median(taken_ns)) / 1e6


def difference_rows(made: Contest, frames: Floats) -> Iterator[Row]:
    """Yield how far int8 scores are from the float network's: root mean square, over that of the float scores."""
    plain = _load(made.ours_float)
    assert plain is not None
    expected = plain.run(frames)
    scale = float(np.sqrt(np.mean(expected**2)))
    found = [
        None if model is None else float(np.sqrt(np.mean((model.run(frames) - expected) ** 2))) / scale
        for model in map(_load, (made.ours, made.keras))
    ]
    yield Row(f"{made.name}: int8 from float, RMS", "of RMS", found[0], found[1], made.keras.against(KERAS))


def accuracy_rows(made: Contest, fitted: Fitted) -> Iterator[Row]:
    """Yield the accuracy of each int8 model on real labels."""
    name = f"{made.name}: int8 accuracy, {fitted.data}"
    ours = _accuracy(made.ours, fitted)
    yield Row(name, "share", ours, _accuracy(made.ours_float, fitted), "its float network", AS_GOOD)
    for peer, result in ((f"{ONNX2TF} -oiqt", made.onnx2tf), (KERAS, made.keras)):
        figure = _accuracy(result, fitted)
        yield Row(name, "share", ours, figure, result.against(peer), None if figure is None else AS_GOOD)


def whole_build_rows(folder: Path, network: Network, frames: Textures) -> Iterator[Row]:
    """Yield what ``dsops model build`` takes with everything that it does."""
    recipe = folder / "recipe"
    recipe.mkdir(parents=True)
    (recipe / "model.onnx").write_bytes(to_onnx(with_softmax(network)))
    (recipe / "bundle.toml").write_text(RECIPE)
    np.savez(recipe / "calibration.npz", x=frames.x[:CALIBRATION_COUNT])
    np.savez(recipe / "evaluation.npz", x=frames.x, y=frames.y)
    (recipe / "labels.txt").write_text("".join(f"class {number}\n" for number in range(1000)))
    tool = Path(sys.executable).with_name("dsops")
    cost = peers.timed(folder, tool, "model", "build", recipe, "--to", folder / "built")
    yield Row(f"{network.name}: whole build", "s", cost.took_s, limit=SECONDS_LIMIT)
    yield Row(f"{network.name}: whole build, processor time", "s", cost.cpu_s)
    yield Row(f"{network.name}: whole build, peak", "MB", cost.peak_mb, limit=MEMORY_LIMIT)


RECIPE = """\
[model]
name = "mobilenet-v2"
source = "model.onnx"
task = "classification"
labels = "labels.txt"

[data]
calibration = "calibration.npz"
evaluation = "evaluation.npz"

[variant.int8]
"""


def measure() -> Report:
    """Measure everything."""
    with tempfile.TemporaryDirectory(prefix="dsops-bench-") as name:
        folder = Path(name)
        rows = [*large_rows(folder), *small_rows(folder)]
    versions = {
        ONNX2TF: peers.version_of(peers.onnx2tf_python(), "onnx2tf"),
        "TensorFlow": peers.version_of(peers.tensorflow_python(), "tensorflow-cpu"),
    }
    facts = {**versions, "calibration frames": CALIBRATION_COUNT, "frames of the whole build": FRAMES_COUNT}
    return Report("build", "From a float network to an int8 build", facts, tuple(rows))


def large_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of the large networks, the second one with batch norms that are to be folded."""
    frames = textures(FRAMES_COUNT, 224, SEED)
    first = mobilenet_v2(SEED)
    fit_head(first, frames)
    yield from whole_build_rows(folder / "whole", first, frames)
    for network, batch_norm_seed in ((first, None), (resnet18(SEED), SEED)):
        made = contest(folder / network.name, network, to_onnx(network, batch_norm_seed), frames.x[:CALIBRATION_COUNT])
        yield from cost_rows(made)
        yield from parity_rows(made, frames.x[-PARITY_COUNT:])
        yield from difference_rows(made, frames.x[-PARITY_COUNT:])
        yield from latency_rows(made, frames.x[:LATENCY_FRAMES], AS_QUICK)


def small_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of the networks that read digits."""
    for fitted in (digits_network(SEED), mobilenet_network(SEED)):
        made = contest(folder / fitted.network.name, fitted.network, to_onnx(fitted.network), fitted.calibration)
        yield from accuracy_rows(made, fitted)
        yield from latency_rows(made, fitted.x[:LATENCY_FRAMES], None)


def _quantizing(channels: int) -> tuple[str, ...]:
    """Return the options that make onnx2tf quantize with our calibration frames as they are."""
    mean, deviation = ([[[[value] * channels]]] for value in (0, 1))
    return ("-oiqt", "-cind", "image", "../calibration.npy", str(mean), str(deviation))


def _load(result: Result) -> LitertModel | None:
    return LitertModel(result.file.read_bytes()) if result.file else None


def _accuracy(result: Result, fitted: Fitted) -> float | None:
    model = _load(result)
    return None if model is None else float((model.run(fitted.x).argmax(axis=1) == fitted.y).mean())


def _kilobytes(result: Result) -> float | None:
    return result.file.stat().st_size / 1e3 if result.file else None


if __name__ == "__main__":
    sys.exit(run(measure))
