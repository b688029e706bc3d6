"""The same recipe gives the same bytes wherever, whenever and by whomever it is built, and another one other bytes."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from dsops.bundle import Bundle, sha256_hex
from dsops_controller.build.bundles.documents.provenance import Signer
from dsops_controller.build.bundles.package import build_bundle
from dsops_controller.build.recipe import build_model
from dsops_controller.trust.keys import KeyFolder

pytestmark = pytest.mark.integration

PROGRAM = [sys.executable, "-m", "dsops_controller.cli.app"]
NOBODY = 65534
RECIPE = """
[model]
name = "zero"
source = "model.onnx"
task = "classification"
labels = ["other", "zero"]

[data]
calibration = "data.npz"
evaluation = "data.npz"

[variant.int8]

[evaluate]
threads = [1]

[gate]
max_accuracy_drop = 0.05

[postprocessing]
activation = "sigmoid"
threshold = 0.5
"""


@dataclass(frozen=True)
class Circumstances:
    """Where and how a build runs; ``prefix`` makes a program run as another user."""

    place: Path
    umask: int
    prefix: tuple[str, ...]
    variables: dict[str, str]

    def run(self, *words: str | Path) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.place), "OMP_NUM_THREADS": "1", **self.variables}
        command = [*self.prefix, *PROGRAM, *map(str, words)]
        done = subprocess.run(
            command, check=False, cwd=self.place, env=environment, umask=self.umask, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def write_recipe(folder: Path, edit: Callable[[np.ndarray], np.ndarray] = lambda w: w, text: str = RECIPE) -> Path:
    """Write a recipe that tells zeros from other digits by a logistic regression."""
    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), (digits.target == 0).astype(np.int64)
    fitted = LogisticRegression(C=0.05).fit(x[:1000], y[:1000])
    weights = edit(fitted.coef_.T.astype(np.float32))
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["score"])],
        "zero",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(fitted.intercept_.astype(np.float32), "b")],
    )
    folder.mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    np.savez(folder / "data.npz", x=x[1000:], y=y[1000:])
    (folder / "bundle.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def area() -> Iterator[Path]:
    """A folder that other users can reach, too."""
    folder = Path(tempfile.mkdtemp(prefix="dsops-reproducible."))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_other_user() -> tuple[str, ...]:
    """Return what runs a program as another user, who can read this one's files; nothing where that cannot be."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return ()
    reading = "+dac_override,+dac_read_search"  # the interpreter may be in a folder of this user's own
    capabilities = (f"--inh-caps={reading}", f"--ambient-caps={reading}")
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *capabilities)
    probe = [*prefix, sys.executable, "-c", "import dsops_controller"]
    can_run = subprocess.run(probe, check=False, capture_output=True, cwd="/").returncode == 0
    return prefix if can_run else ()


@pytest.mark.slow
def test_place_user_time_zone_locale_and_hash_seed_do_not_matter(area: Path) -> None:
    KeyFolder(area / "keys").make("model-zero")
    circumstances = (
        Circumstances(area / "here", 0o022, (), {"TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "1", "LC_ALL": "C"}),
        Circumstances(
            area / "elsewhere/deep",
            0o077,
            as_other_user(),
            {"TZ": "America/Los_Angeles", "PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8"},
        ),
    )
    written = []
    for one in circumstances:
        write_recipe(one.place / "recipe")
        shutil.copytree(area / "keys", one.place / "keys")
        if one.prefix:
            for path in (one.place, *one.place.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        one.run("model", "build", "recipe", "--to", one.place / "built")
        one.run("bundle", "build", "built", "-r", "1", "--to", one.place / "zero.bundle", "--keys", "keys")
        written.append((one.place / "zero.bundle").read_bytes())
    assert Bundle.open(area / "here/zero.bundle").manifest.documents.provenance
    if circumstances[1].prefix:
        assert (area / "elsewhere/deep/zero.bundle").stat().st_uid == NOBODY
    assert written[0] == written[1]


@pytest.mark.slow
def test_a_changed_weight_label_or_threshold_changes_the_digest(tmp_path: Path) -> None:
    signer = Signer(ed25519.Ed25519PrivateKey.generate())

    def digest(name: str, recipe: Path) -> str:
        build_model(recipe, tmp_path / name / "built")
        build_bundle(tmp_path / name / "built", 1, tmp_path / name / "out.bundle", signer=signer)
        return sha256_hex((tmp_path / name / "out.bundle").read_bytes())

    def heavier(weights: np.ndarray) -> np.ndarray:
        changed = weights.copy()
        changed[20] += 0.05
        return changed

    digests = {
        "same": digest("same", write_recipe(tmp_path / "same/recipe")),
        "again": digest("again", write_recipe(tmp_path / "again/recipe")),
        "weight": digest("weight", write_recipe(tmp_path / "weight/recipe", heavier)),
        "label": digest("label", write_recipe(tmp_path / "label/recipe", text=RECIPE.replace('"zero"]', '"null"]'))),
        "threshold": digest(
            "threshold", write_recipe(tmp_path / "threshold/recipe", text=RECIPE.replace("= 0.5", "= 0.45"))
        ),
    }
    assert digests.pop("same") == digests["again"]
    assert len(set(digests.values())) == len(digests)
