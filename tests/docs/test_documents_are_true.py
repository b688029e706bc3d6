"""The documents say what the program does: exit codes, links."""

import re
from pathlib import Path

import pytest

from dsops.exits import Exit

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
    if ".venv" not in page.parts
)


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text()
    assert [code.value for code in Exit if f"| {code.value} |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
