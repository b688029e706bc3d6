"""docs/threat-model.md names the tests that show it: each of them exists, and every attacker has some."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/threat-model.md").read_text()
SECTIONS = re.findall(r"^### (.+)\n((?:(?!^##).*\n)*)", PAGE, re.MULTILINE)


def cited(text: str) -> set[str]:
    """Return the tests that a text names, as file::function."""
    return set(re.findall(r"`(test_\w+::test_\w+)`", text))


@pytest.fixture(scope="module")
def defined() -> set[str]:
    """Every test function below tests/, as file::function."""
    found = set()
    for path in ROOT.glob("tests/**/test_*.py"):
        tree = ast.parse(path.read_text())
        nodes = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        found |= {f"{path.stem}::{node.name}" for node in nodes if node.name.startswith("test_")}
    return found


def test_names_of_test_files_are_unique() -> None:
    counted = Counter(path.stem for path in ROOT.glob("tests/**/test_*.py"))
    assert [name for name, count in counted.items() if count > 1] == []


def test_every_test_that_the_page_names_exists(defined: set[str]) -> None:
    assert sorted(cited(PAGE) - defined) == []


def test_nothing_on_the_page_looks_like_a_test_and_is_not_read() -> None:
    assert PAGE.count("::") == PAGE.count("`file::function`") + len(re.findall(r"`test_\w+::test_\w+`", PAGE))


def test_a_test_that_does_not_exist_would_be_found(defined: set[str]) -> None:
    assert cited("as `test_metadata_attacks::test_of_an_attack_that_nobody_tried` shows") - defined


def test_there_are_attackers() -> None:
    assert len(SECTIONS) > 10


@pytest.mark.parametrize(("attacker", "text"), SECTIONS, ids=[name for name, _ in SECTIONS])
def test_every_attacker_has_tests(attacker: str, text: str) -> None:
    assert cited(text), attacker
