"""docs/recipe.md names every key of a recipe and no other, with the defaults that it has."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from dsops.manifest import Budgets, Postprocessing
from dsops_controller.build import recipe_file
from dsops_controller.build.evaluation.gate import Gate
from dsops_controller.build.recipe_file import Recipe

PAGE = Path(__file__).parents[3] / "docs/recipe.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "model": recipe_file.ModelSection,
    "data": recipe_file.DataSection,
    "variant": recipe_file.VariantSection,
    "evaluate": recipe_file.EvaluateSection,
    "gate": Gate,
    "golden": recipe_file.GoldenSection,
    "preprocessing": recipe_file.InputSection,
    "postprocessing": Postprocessing,
    "budgets": Budgets,
    "files": recipe_file.FileSection,
    "lineage": recipe_file.LineageSection,
}
PLAIN = (str, int, float, bool)


def sections() -> Iterator[tuple[str, str]]:
    """Yield the name of each section of the page and its text."""
    parts = re.split(r"^## `\[([a-z]+)(?:\.NAME)?\]`$", PAGE.read_text(), flags=re.MULTILINE)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def rows(text: str) -> dict[str, str]:
    """Return the default of each key in the tables of a text."""
    return dict(re.findall(r"^\| `(\w+)` \| .* \| ([^|]*) \|$", text, re.MULTILINE))


def test_every_section_of_a_recipe_is_described() -> None:
    assert [name for name, _ in sections()] == list(SECTIONS)
    assert set(SECTIONS) == set(Recipe.model_fields)


@pytest.mark.parametrize(("section", "text"), list(sections()), ids=[name for name, _ in sections()])
def test_every_key_is_described(section: str, text: str) -> None:
    keys = set(SECTIONS[section].model_fields)
    if section == "variant":
        keys |= set(recipe_file.RuleSection.model_fields)
    assert set(rows(text)) == keys


@pytest.mark.parametrize(("section", "text"), list(sections()), ids=[name for name, _ in sections()])
def test_defaults_are_those_of_the_program(section: str, text: str) -> None:
    described = rows(text)
    for name, field in SECTIONS[section].model_fields.items():
        if field.is_required():
            assert described[name] == "required", name
        elif isinstance(field.default, PLAIN) and field.default != "":
            shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert described[name] == f"`{shown}`", name


def test_the_example_is_a_recipe() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert list(Recipe.model_validate(tomllib.loads(example)).variant) == ["int8", "coral", "float32"]
