"""Writes what a build of ``camera-watch`` needs into one folder.

``python firmware_bundles/camera-watch/prepare.py --out out/camera-watch`` trains an autoencoder on frames of a sound
camera and writes ``model.onnx``, the data files and ``bundle.toml``; then ``dsops model build out/camera-watch``.
"""

import argparse
import io
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from dsops.files import write_atomically

Frames = NDArray[np.float32]
Fault = Callable[[np.random.Generator, Frames], Frames]

SIDE = 8
HIDDEN = (32, 12, 32)
EPOCHS = 400
LEARNING_RATE = 3e-3
CALIBRATION_COUNT, REFERENCE_COUNT, EVALUATION_COUNT = 200, 500, 500


def bright_row(rng: np.random.Generator, frame: Frames) -> Frames:
    """A row whose amplifier is saturated."""
    frame[rng.integers(1, SIDE - 1)] = 1.0
    return frame


def dead_row(rng: np.random.Generator, frame: Frames) -> Frames:
    """A row in the middle that is not read out."""
    frame[rng.integers(2, SIDE - 2)] = 0.0
    return frame


def hot_pixels(rng: np.random.Generator, frame: Frames) -> Frames:
    """Three pixels stuck at full scale."""
    frame.flat[rng.choice(frame.size, 3, replace=False)] = 1.0
    return frame


def lost_sync(rng: np.random.Generator, frame: Frames) -> Frames:
    """Read-out that begins two to six columns late and wraps around."""
    return np.asarray(np.roll(frame, rng.integers(2, SIDE - 1), axis=1), np.float32)


def raised_black(rng: np.random.Generator, frame: Frames) -> Frames:
    """A black level that drifted up by 0.2 to 0.4 of full scale."""
    return np.asarray(np.clip(frame + rng.uniform(0.2, 0.4), 0.0, 1.0), np.float32)


def thermal_noise(rng: np.random.Generator, frame: Frames) -> Frames:
    """Noise of an overheated sensor, 0.2 of full scale."""
    noise = rng.normal(0.0, 0.2, frame.shape)
    return np.asarray(np.clip(frame + noise, 0.0, 1.0), np.float32)


FAULTS: tuple[Fault, ...] = (bright_row, dead_row, hot_pixels, lost_sync, raised_black, thermal_noise)


def fit(frames: Frames, seed: int) -> MLPRegressor:
    """Train the autoencoder for a fixed number of epochs; one BLAS thread, for the products are small."""
    network = MLPRegressor(
        hidden_layer_sizes=HIDDEN,
        learning_rate_init=LEARNING_RATE,
        alpha=1e-5,
        max_iter=EPOCHS,
        n_iter_no_change=EPOCHS,
        random_state=seed,
    )
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is chosen, not found
        network.fit(frames, frames)
    return network


def to_onnx(network: MLPRegressor) -> bytes:
    """Return the network as ``frame`` float32 [1, 64] -> ``reconstruction`` float32 [1, 64]."""
    nodes, weights, value = [], [], "frame"
    last = len(network.coefs_) - 1
    for number, (kernel, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        names = f"weight{number}", f"bias{number}"
        arrays = kernel.astype(np.float32), bias.astype(np.float32)
        weights += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
        summed = "reconstruction" if number == last else f"sum{number}"
        nodes.append(helper.make_node("Gemm", [value, *names], [summed], name=f"dense{number}"))
        if number < last:
            value = f"active{number}"
            nodes.append(helper.make_node("Relu", [summed], [value], name=f"relu{number}"))
    shape = [1, network.n_features_in_]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("frame", "reconstruction")]
    graph = helper.make_graph(nodes, "camera-watch", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def with_faults(sound: Frames, seed: int) -> dict[str, NDArray[np.generic]]:
    """Return each frame twice, sound (y 0) and with one fault (y 1).

    Both twins carry the fault's name as their slice, so that each slice can be judged by itself.
    """
    rng = np.random.default_rng(seed)
    kinds = np.arange(len(sound)) % len(FAULTS)
    broken = [FAULTS[kind](rng, frame.copy()) for kind, frame in zip(kinds, _square(sound), strict=True)]
    names = np.array([fault.__name__ for fault in FAULTS])[kinds]
    return {
        "x": np.concatenate([sound, np.stack(broken).reshape(sound.shape)]),
        "y": np.repeat(np.arange(2, dtype=np.int64), len(sound)),
        "slice.fault": np.concatenate([names, names]),
    }


def prepare(folder: Path, seed: int) -> float:
    """Train, write the recipe's folder, and return the mean squared error on held-out sound frames."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = (load_digits().images / 16.0).astype(np.float32).reshape(-1, SIDE * SIDE)
    order = np.random.default_rng(seed).permutation(len(frames))
    evaluation, reference, train = np.split(frames[order], [EVALUATION_COUNT, EVALUATION_COUNT + REFERENCE_COUNT])
    network = fit(train, seed)
    files = {
        "model.onnx": to_onnx(network),
        "calibration.npz": _npz(x=train[:CALIBRATION_COUNT]),
        "reference.npz": _npz(x=reference, y=np.zeros(len(reference), np.int64)),
        "evaluation.npz": _npz(**with_faults(evaluation, seed)),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    for name in ("bundle.toml", "modelcard.md"):
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    return float(np.mean((network.predict(reference) - reference) ** 2))


def _square(frames: Frames) -> Frames:
    return frames.reshape(-1, SIDE, SIDE)


def _npz(**arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description="Prepare the recipe folder of camera-watch.")
    parser.add_argument("--seed", type=int, default=0, help="chooses split, initial weights and faults")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    try:
        error = prepare(given.out, given.seed)
    except OSError as problem:
        sys.stderr.write(f"cannot write {given.out}: {problem.strerror}\n")
        return 1
    sys.stdout.write(f"{given.out}: mean squared error {error:.4f} on held-out sound frames\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
