"""The build side's public names: cheap to import, all there, and the documented example runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dsops_controller.build as api
from dsops_controller.demo.digits import LABELS, Splits

ROOT = Path(__file__).parents[3]
HOW_TO = ROOT / "docs/how-to/build-a-bundle.md"
HEAVY = ("numpy", "onnx", "onnxruntime", "ai_edge_litert", "ai_edge_quantizer", "pydantic", "rich")
WITHOUT_ONNX = """
import sys
sys.modules["onnx"] = None
import dsops_controller.build as api
from dsops.errors import MissingExtra
try:
    api.build_model
except MissingExtra as error:
    print(error.hint)
"""


def python(*words: str) -> str:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout.strip()


def test_every_name_is_there_and_no_other() -> None:
    assert sorted(api._HOMES) == sorted(api.__all__)
    assert [name for name in api.__all__ if not hasattr(api, name)] == []
    assert set(api.__all__) <= set(dir(api))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = api.nothing


def test_the_names_for_type_checkers_are_the_same() -> None:
    imported = re.search(r"if TYPE_CHECKING:\n(.*?)\n\n", Path(api.__file__).read_text(), re.DOTALL)
    assert imported is not None
    pairs = re.findall(r"from dsops_controller\.build\.([\w.]+) import (.+)", imported[1])
    assert {name: module for module, names in pairs for name in names.split(", ")} == api._HOMES


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = python("-c", "import sys, dsops_controller.build; print(*{name.split('.')[0] for name in sys.modules})")
    assert "dsops_controller" in loaded.split()
    assert set(loaded.split()).isdisjoint(HEAVY)


def test_without_the_extra_the_error_names_it() -> None:
    assert python("-c", WITHOUT_ONNX) == "pip install 'dsops[build]'"


def test_a_function_is_not_hidden_by_the_module_of_its_name() -> None:
    loaded = "import dsops_controller.build.quantization.quantize, dsops_controller.build.evaluation.evaluate; "
    asked = "from dsops_controller.build import evaluate, quantize, record; "
    printed = "print(callable(quantize), callable(evaluate), record.__name__)"
    assert python("-c", loaded + asked + printed) == "True True dsops_controller.build.record"


def test_the_documented_example_builds_bundles(
    recipe_folder: Path, digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes((recipe_folder / "model.onnx").read_bytes())
    Path("labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    np.save("frames.npy", digits.reference.x)
    np.save("truth.npy", digits.reference.y)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(HOW_TO), "exec"), names)
    assert sorted(path.name for path in Path("bundles").iterdir()) == [
        "model-1-float32.bundle",
        "model-1-int8.bundle",
    ]
    scores = names["scores"]
    assert isinstance(scores, np.ndarray)
    assert scores.shape == (1, 10)
    assert scores.sum() == pytest.approx(1, abs=0.05)
