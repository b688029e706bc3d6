"""Writes everything that a build of the demonstration's model needs into one folder.

``python -m dsops_controller.demo.prepare --seed 0 --out out/digits`` trains the network and writes ``model.onnx``, the
data files and ``bundle.toml``; then ``dsops model build out/digits`` builds it.
"""

import argparse
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsops import strictjson
from dsops.errors import DsopsError, InvalidInput
from dsops.files import write_atomically
from dsops_controller.demo.digits import LABELS, Labelled, balanced_mix, splits
from dsops_controller.demo.train import accuracy, to_onnx, train

MODEL = "digits"
MIN_CONFIDENCE = 0.5
"""Below this a program on the device asks a person; it reads the figure from the file that comes with the model."""


@dataclass(frozen=True)
class Prepared:
    """Where the folder is, and the float network's accuracy on held-out frames."""

    folder: Path
    accuracy: float


def prepare(folder: Path, seed: int, returned: Labelled | None = None) -> Prepared:
    """Train and write a recipe's folder.

    Args:
        folder: Folder to write; made when it is not there.
        seed: Chooses split and initial weights.
        returned: Labelled samples that came back from devices; they are mixed into the training, balanced by class.

    Raises:
        InvalidInput: The folder cannot be written.
        NoSpace: The disk is full.
    """
    _make_folder(folder)
    data = splits(seed)
    weights = train(data.train if returned is None else balanced_mix(data.train, returned, seed), seed)
    calibration = data.calibration if returned is None else data.calibration.join(returned)
    files = {
        "model.onnx": to_onnx(weights),
        "calibration.npz": _npz(calibration),
        "reference.npz": _npz(data.reference),
        "evaluation.npz": _npz(data.reference),
        "reading.json": strictjson.dumps({"min_confidence": MIN_CONFIDENCE}),
        "bundle.toml": _recipe(seed, returned).encode(),
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    return Prepared(folder, accuracy(weights, data.reference))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write {folder}", why=str(error.strerror), hint="name another folder") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        done = prepare(given.out, given.seed)
    except DsopsError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        return 1
    sys.stdout.write(f"{done.folder}: float accuracy {done.accuracy:.2%} on held-out digits\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dsops_controller.demo.prepare", description="Prepare the demonstration's recipe folder."
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses split and initial weights")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return parser


def _npz(data: Labelled) -> bytes:
    """Return a data file with ``x`` and ``y``; equal data gives equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, x=data.x, y=data.y)
    return buffer.getvalue()


def _recipe(seed: int, returned: Labelled | None) -> str:
    return f"""\
# Written by dsops_controller.demo.prepare; see firmware_bundles/digits.

[model]
name = "{MODEL}"
source = "model.onnx"
task = "classification"
labels = [{", ".join(f'"{label}"' for label in LABELS)}]
description = "Handwritten digits of 8 x 8 pixels"
license = "Apache-2.0"

[data]
calibration = "calibration.npz"
evaluation = "evaluation.npz"
profile = "reference.npz"
golden = "reference.npz"

[variant.int8]
hardware = ["x86_64", "aarch64"]

[variant.float32]

[gate]
max_accuracy_drop = 0.01
min_agreement = 0.97

[golden]
count = 32

[preprocessing]
color = "GRAY"
scale = 0.0625

[files]
"reading.json" = {{ kind = "config", source = "reading.json" }}

[lineage]
parameters = {{ seed = "{seed}" }}
facts = {{ returned_samples = "{len(returned) if returned else 0}" }}
"""


if __name__ == "__main__":
    sys.exit(main())
