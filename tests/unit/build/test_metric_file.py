import sys
from pathlib import Path

import numpy as np
import pytest

from dsops.errors import InvalidConfig
from dsops_controller.build.evaluation.metric_file import load_metric

CODE = """
import numpy as np

LIMIT = 3

def near(outputs, y):
    return float((np.abs(outputs["y"][:, 0] - y) < LIMIT).mean())
"""


def test_a_function_of_the_recipe_s_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    before = set(sys.modules)
    metric = load_metric("mine.py:near", tmp_path)
    assert metric.name == "near"
    assert metric.function({"y": np.array([[1.0], [9.0]])}, np.array([2.0, 2.0])) == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert not {name for name in set(sys.modules) - before if "mine" in name}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("accuracyy", "neither built in nor"),
        ("mine.py", "neither built in nor"),
        ("mine.py:not a name", "neither built in nor"),
        ("mine.so:near", "neither built in nor"),
        ("../outside.py:near", "lies outside the recipe's folder"),
        ("link.py:near", "lies outside the recipe's folder"),
        ("absent.py:near", "there is no file"),
        ("mine.py:far", "has no function 'far'"),
        ("mine.py:LIMIT", "has no function 'LIMIT'"),
        ("broken.py:near", "broken.py: SyntaxError"),
        ("raising.py:near", "raising.py: ZeroDivisionError"),
        ("leaving.py:near", "'leaving.py:near' cannot be loaded: leaving.py: SystemExit: 0"),
    ],
)
def test_what_cannot_be_loaded_is_said(tmp_path: Path, spec: str, text: str) -> None:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (tmp_path / "outside.py").write_text(CODE)
    (folder / "mine.py").write_text(CODE)
    (folder / "broken.py").write_text("def near(")
    (folder / "raising.py").write_text("1 / 0")
    (folder / "leaving.py").write_text("raise SystemExit(0)")
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(InvalidConfig, match=text):
        load_metric(spec, folder)


def test_what_the_file_prints_is_no_output_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text('print("loaded")\n' + CODE)
    load_metric("mine.py:near", tmp_path)
    assert capsys.readouterr() == ("", "loaded\n")


def test_an_interrupt_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_metric("mine.py:near", tmp_path)
