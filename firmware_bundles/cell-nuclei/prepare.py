"""Writes what a build of ``cell-nuclei`` needs into one folder.

``python firmware_bundles/cell-nuclei/prepare.py --out out/cell-nuclei`` trains a classifier of table rows and writes
``model.onnx``, the data files, ``scaling.json`` and ``bundle.toml``; then ``dsops model build out/cell-nuclei``.
"""

import argparse
import io
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from dsops.files import write_atomically

HIDDEN = (32, 16)
EPOCHS = 300
REFERENCE_COUNT = 269
RADIUS = 0
"""Column of the mean radius of the nuclei, by whose tercile the evaluation is sliced."""


@dataclass(frozen=True)
class Table:
    """Rows float32 [N, 30], standardised by the training rows; labels int64 [N]; and the standardisation itself."""

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_held_out: NDArray[np.float32]
    y_held_out: NDArray[np.int64]
    scaling: bytes


def read_table(seed: int) -> Table:
    """Split the rows, each class in proportion, and standardise every column by mean and deviation in training."""
    bunch = load_breast_cancer()
    x_train, x_held_out, y_train, y_held_out = train_test_split(
        bunch.data, bunch.target.astype(np.int64), test_size=REFERENCE_COUNT, random_state=seed, stratify=bunch.target
    )
    scaler = StandardScaler().fit(x_train)
    columns = zip(bunch.feature_names, scaler.mean_, scaler.scale_, strict=True)
    rows = [{"name": str(name), "mean": float(mean), "deviation": float(scale)} for name, mean, scale in columns]
    return Table(
        x_train=scaler.transform(x_train).astype(np.float32),
        y_train=y_train,
        x_held_out=scaler.transform(x_held_out).astype(np.float32),
        y_held_out=y_held_out,
        scaling=json.dumps({"columns": rows}, indent=1).encode() + b"\n",
    )


def fit(table: Table, seed: int) -> MLPClassifier:
    """Train the classifier; one BLAS thread, for the products are small."""
    network = MLPClassifier(
        hidden_layer_sizes=HIDDEN, alpha=1e-2, learning_rate_init=3e-3, max_iter=EPOCHS, random_state=seed
    )
    with threadpool_limits(limits=1):
        network.fit(table.x_train, table.y_train)
    return network


def to_onnx(network: MLPClassifier) -> bytes:
    """Return the network as ``measurements`` float32 [1, 30] -> ``scores`` float32 [1, 2].

    scikit-learn ends a network of two classes in one logistic unit z. Two units -z/2 and z/2 and a softmax give the
    same probabilities and one score a label.
    """
    kernels, biases = [*network.coefs_], [*network.intercepts_]
    kernels[-1] = np.concatenate([-kernels[-1] / 2, kernels[-1] / 2], axis=1)
    biases[-1] = np.concatenate([-biases[-1] / 2, biases[-1] / 2])
    nodes, weights, value = [], [], "measurements"
    for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        names = f"weight{number}", f"bias{number}"
        arrays = kernel.astype(np.float32), bias.astype(np.float32)
        weights += [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
        nodes.append(helper.make_node("Gemm", [value, *names], [f"sum{number}"], name=f"dense{number}"))
        last = number == len(kernels) - 1
        value = "scores" if last else f"active{number}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"sum{number}"], [value], name=f"act{number}"))
    measurements = helper.make_tensor_value_info("measurements", TensorProto.FLOAT, [1, len(kernels[0])])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2])
    graph = helper.make_graph(nodes, "cell-nuclei", [measurements], [scores], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def prepare(folder: Path, seed: int) -> float:
    """Train, write the recipe's folder, and return the accuracy on held-out rows."""
    folder.mkdir(parents=True, exist_ok=True)
    table = read_table(seed)
    network = fit(table, seed)
    borders = np.quantile(table.x_held_out[:, RADIUS], [1 / 3, 2 / 3])
    size = np.array(["small", "medium", "large"])[np.digitize(table.x_held_out[:, RADIUS], borders)]
    held_out = _npz(x=table.x_held_out, y=table.y_held_out, **{"slice.size": size})
    files = {
        "model.onnx": to_onnx(network),
        "labels.txt": b"malignant\nbenign\n",
        "scaling.json": table.scaling,
        "calibration.npz": _npz(x=table.x_train, y=table.y_train),
        "held_out.npz": held_out,
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    for name in ("bundle.toml", "modelcard.md"):
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    return float(network.score(table.x_held_out, table.y_held_out))


def _npz(**arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description="Prepare the recipe folder of cell-nuclei.")
    parser.add_argument("--seed", type=int, default=0, help="chooses split and initial weights")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    try:
        accuracy = prepare(given.out, given.seed)
    except OSError as problem:
        sys.stderr.write(f"cannot write {given.out}: {problem.strerror}\n")
        return 1
    sys.stdout.write(f"{given.out}: float accuracy {accuracy:.2%} on held-out rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
