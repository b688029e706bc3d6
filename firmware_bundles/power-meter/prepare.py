"""Writes what a build of ``power-meter`` needs into one folder.

``python firmware_bundles/power-meter/prepare.py --data elec.csv --out out/power-meter`` trains an autoencoder on days
of electricity demand and writes ``model.onnx``, the data files and ``bundle.toml``; then ``dsops model build
out/power-meter``. The README says where ``elec.csv`` comes from; it is not in this repository.
"""

import argparse
import gzip
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
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from dsops.files import write_atomically

Days = NDArray[np.float32]
Fault = Callable[[np.random.Generator, Days], Days]

SLOTS = 48
"""Half hours of a day."""
MEAN, DEVIATION = np.float32(0.43), np.float32(0.16)
"""Standardisation of the demand, which the data set gives in 0..1; the recipe tells the devices the same."""
HIDDEN = (32, 8, 32)
EPOCHS = 600
LEARNING_RATE = 2e-3
TRAIN_COUNT, REFERENCE_COUNT = 500, 222
"""Days in order of time: the rest, 222 of 944, is for the evaluation."""
DAYS = 944
COLUMNS = ["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer", "class"]


def stuck(rng: np.random.Generator, day: Days) -> Days:
    """A reading that does not change for eight hours."""
    start = rng.integers(0, SLOTS - 16)
    day[start : start + 16] = day[start]
    return day


def dropped_hours(rng: np.random.Generator, day: Days) -> Days:
    """Three hours without a reading, which arrive as zero."""
    start = rng.integers(0, SLOTS - 6)
    day[start : start + 6] = -MEAN / DEVIATION
    return day


def spikes(rng: np.random.Generator, day: Days) -> Days:
    """Two half hours that are off by one and a half deviations of the whole series."""
    day[rng.choice(SLOTS, 2, replace=False)] += np.float32(1.5) * rng.choice([-1, 1], 2)
    return day


def wrong_clock(rng: np.random.Generator, day: Days) -> Days:
    """A clock that is two to six hours off; the day wraps around."""
    return np.roll(day, rng.choice([-1, 1]) * rng.integers(4, 13))


def drifting(rng: np.random.Generator, day: Days) -> Days:
    """A gain that drifts away over the day, to half to one and a half deviations."""
    return day + np.linspace(0.0, rng.choice([-1, 1]) * rng.uniform(0.5, 1.5), SLOTS, dtype=np.float32)


FAULTS: tuple[Fault, ...] = (stuck, dropped_hours, spikes, wrong_clock, drifting)


def fit(days: Days, seed: int) -> MLPRegressor:
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
        network.fit(days, days)
    return network


def to_onnx(network: MLPRegressor) -> bytes:
    """Return the network as ``day`` float32 [1, 48] -> ``reconstruction`` float32 [1, 48]."""
    nodes, weights, value = [], [], "day"
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
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("day", "reconstruction")]
    graph = helper.make_graph(nodes, "power-meter", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def with_faults(sound: Days, seed: int) -> dict[str, NDArray[np.generic]]:
    """Return each day twice, sound (y 0) and with one fault (y 1).

    Both twins carry the fault's name as their slice, so that each slice can be judged by itself.
    """
    rng = np.random.default_rng(seed)
    kinds = np.arange(len(sound)) % len(FAULTS)
    broken = [FAULTS[kind](rng, day.copy()) for kind, day in zip(kinds, sound, strict=True)]
    names = np.array([fault.__name__ for fault in FAULTS])[kinds]
    return {
        "x": np.concatenate([sound, np.stack(broken)]),
        "y": np.repeat(np.arange(2, dtype=np.int64), len(sound)),
        "slice.fault": np.concatenate([names, names]),
    }


def read_days(path: Path) -> Days:
    """Read the demand, float32 [N, 48], standardised.

    Raises:
        ValueError: The file is not the data set.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        if file.readline().strip().split(",") != COLUMNS:
            raise ValueError(f"the first line is not {','.join(COLUMNS)}")
        demand = np.loadtxt(file, delimiter=",", usecols=COLUMNS.index("nswdemand"), dtype=np.float32)
    if demand.size != DAYS * SLOTS:
        raise ValueError(f"it has {demand.size} rows, not {DAYS * SLOTS}")
    return (demand.reshape(DAYS, SLOTS) - MEAN) / DEVIATION


def prepare(data: Path, folder: Path, seed: int) -> float:
    """Train, write the recipe's folder, and return the mean squared error on held-out sound days."""
    train, reference, evaluation = np.split(read_days(data), [TRAIN_COUNT, TRAIN_COUNT + REFERENCE_COUNT])
    folder.mkdir(parents=True, exist_ok=True)
    network = fit(train, seed)
    files = {
        "model.onnx": to_onnx(network),
        "calibration.npz": _npz(x=train),
        "reference.npz": _npz(x=reference, y=np.zeros(len(reference), np.int64)),
        "evaluation.npz": _npz(**with_faults(evaluation, seed)),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    for name in ("bundle.toml", "modelcard.md"):
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    return float(np.mean((network.predict(reference) - reference) ** 2))


def _npz(**arrays: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description="Prepare the recipe folder of power-meter.")
    parser.add_argument("--seed", type=int, default=0, help="chooses initial weights and faults")
    parser.add_argument("--data", type=Path, required=True, help="elec.csv, or elec.csv.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    try:
        error = prepare(given.data, given.out, given.seed)
    except ValueError as problem:
        sys.stderr.write(f"{given.data} is not the data set: {problem}\n")
        return 1
    except OSError as problem:
        sys.stderr.write(f"{problem.filename}: {problem.strerror or problem}\n")
        return 1
    sys.stdout.write(f"{given.out}: mean squared error {error:.4f} on held-out sound days\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
