"""Makes golden bundles: ``python firmware_bundles/golden/make.py FOLDER``, of format 1, or 2 with ``--sealed``.

Three small models of real data, one for each shape of bundle: a classifier of images with an attachment, a
reconstruction with a threshold, and a classifier with two inputs; of format 2, the first of them, sealed. A throw-away
key signs their provenance; its public half stays beside them, and so does the secret of a sealed one. Bundles that are
there are never replaced: what an old release wrote is what they are for.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric import ed25519
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dsops.bundle import file_digest
from dsops.dsse import public_pem
from dsops.sealing import new_secret
from dsops_controller.build.bundles.documents.provenance import Signer
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.recipe import build_model

RECIPES = Path(__file__).parents[1]
SEED = 0
HALVES = """
[model]
name = "digit-halves"
source = "model.onnx"
task = "classification"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
description = "Tells digits by their upper and lower half, which come as two inputs"
license = "Apache-2.0"
kpis = ["forms-per-hour"]

[data]
calibration = "calibration.npz"
evaluation = "evaluation.npz"

[variant.int8]

[gate]
max_accuracy_drop = 0.02

[budgets]
max_disk_bytes = 65536

[preprocessing.top]
scale = 0.0625

[preprocessing.bottom]
scale = 0.0625

[lineage]
commit = "golden"
parameters = { regularization = "0.1" }
facts = { data = "UCI Optical Recognition of Handwritten Digits, as shipped by scikit-learn" }
"""


def prepare_halves(folder: Path) -> None:
    """Train a logistic regression on both halves of scikit-learn's digits, and write its recipe."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order].astype(np.int64)
    fitted = LogisticRegression(C=0.1, max_iter=500).fit(x[:1000], y[:1000])
    folder.mkdir(parents=True)
    onnx.save(
        halves_model(fitted.coef_.T.astype(np.float32), fitted.intercept_.astype(np.float32)), folder / "model.onnx"
    )
    for name, rows in (("calibration", slice(0, 300)), ("evaluation", slice(1000, None))):
        np.savez(folder / f"{name}.npz", top=x[rows, :32], bottom=x[rows, 32:], y=y[rows])
    (folder / "bundle.toml").write_text(HALVES)


def halves_model(weights: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """Return softmax(top @ weights[:32] + bottom @ weights[32:] + bias)."""
    nodes = [
        helper.make_node("Gemm", ["top", "w_top", "b"], ["from_top"]),
        helper.make_node("Gemm", ["bottom", "w_bottom", "b_zero"], ["from_bottom"]),
        helper.make_node("Add", ["from_top", "from_bottom"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1),
    ]
    values = {"w_top": weights[:32], "w_bottom": weights[32:], "b": bias, "b_zero": np.zeros_like(bias)}
    graph = helper.make_graph(
        nodes,
        "halves",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32]) for name in ("top", "bottom")],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def main() -> None:
    """Make every bundle that is not there yet."""
    parser = argparse.ArgumentParser(description="Makes golden bundles.")
    parser.add_argument("to", type=Path)
    parser.add_argument("--sealed", action="store_true")
    options = parser.parse_args()
    to, secret = options.to, new_secret() if options.sealed else None
    to.mkdir(parents=True, exist_ok=True)
    key = ed25519.Ed25519PrivateKey.generate()
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        prepare_halves(work / "digit-halves")
        for name in ("digits", "camera-watch"):
            script = RECIPES / name / "prepare.py"
            subprocess.run([sys.executable, str(script), "--out", str(work / name)], check=True)
        for name in ("digits",) if secret else ("digits", "camera-watch", "digit-halves"):
            made = work / f"{name}-1-int8.bundle"
            build_model(work / name, work / "built", only=("int8",))
            signer = Signer(key, "urn:dsops:golden-bundles")
            build_bundle(work / "built", 1, made, signer=signer, secret=secret)
            if not (to / made.name).exists():
                shutil.copy(made, to / made.name)
                (to / f"{made.stem}.pub").write_text(public_pem(key.public_key()))
                if secret:
                    (to / f"{made.stem}.key").write_text(secret.hex() + "\n")
    bundles = sorted(to.glob("*.bundle"))
    (to / "SHA256SUMS").write_text("".join(f"{file_digest(path)[0]}  {path.name}\n" for path in bundles))


if __name__ == "__main__":
    main()
