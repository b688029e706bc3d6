"""The reference of commands and keys is what the programs say; commands in the documents exist."""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dsops_agent.config import Config, Enrolment, Trust, known_keys
from dsops_agent.config_inference import DelegateSection
from dsops_agent.config_samples import WatchRule
from dsops_agent.feed.settings import (
    Camera,
    Command,
    Directory,
    FileSink,
    Messages,
    Replay,
    Sink,
    Source,
    TopicSink,
)
from dsops_controller.cli.root import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_AGENT_WORDS = {
    "feed": ["feed"],
    "run": ["run"],
    "status": ["status"],
    "install": ["install"],
    "quarantine": ["quarantine", "list"],
    "config": ["config", "show"],
    "identity": ["identity", "show"],
}


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_generated_page_is_stale(generator: ModuleType) -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in generator.pages().items() if path.read_text() != text]
    assert stale == [], "run: make docs"


def test_every_key_of_the_agent_is_in_its_table(generator: ModuleType) -> None:
    page = generator.AGENT_PAGE.read_text()
    assert [key for key in known_keys() if f"| `{key}` |" not in page] == []


def test_the_example_of_the_agent_page_is_valid(generator: ModuleType, tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", generator.AGENT_PAGE.read_text(), re.DOTALL)
    (tmp_path / "agent.toml").write_text(example)
    shown = subprocess.run(
        [sys.executable, "-m", "dsops_agent", "config", "show", "--config", str(tmp_path / "agent.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """Yield the words after the program's name, of every command in code on a page."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in lines:
        for part in re.split(r"&&|[&;|]", line):
            if part.split()[:1] and part.split()[0].rpartition("/")[2] == program:
                yield shlex.split(part)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_documents_exist(page: Path) -> None:
    for words in commands(page, "dsops"):
        command: Any = get_command(app)
        known = {"-h", "--help", "--debug", "--version"}
        rest = list(words)
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"dsops {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        known |= {option for parameter in command.params for option in parameter.opts}
        used = {word.partition("=")[0] for word in rest if re.fullmatch(r"--?[A-Za-z].*", word)}
        assert used <= known, f"dsops {' '.join(words)}"


def all_commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from all_commands(below, (*words, name))


def test_every_command_shows_its_help() -> None:
    runner = CliRunner()
    found = {words: runner.invoke(app, [*words, "--help"]) for words in all_commands(get_command(app))}
    assert len(found) > 40
    assert {
        words: done.exception for words, done in found.items() if done.exit_code or "Usage" not in done.output
    } == {}
    texts = {words: done.output for words, done in found.items()}
    assert [words for words, text in texts.items() if re.search(r"\( \w|under  ", text)] == [], "eaten as markup"


def test_readme_shows_commands() -> None:
    assert len(list(commands(ROOT / "README.md", "dsops"))) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_agent_commands_in_documents_exist(page: Path) -> None:
    for words in commands(page, "dsops-agent"):
        verb = _AGENT_WORDS.get(words[0], []) if words else []
        options = [word for word in words if word.startswith("-") and word != "--version"]
        asked = subprocess.run(
            [sys.executable, "-m", "dsops_agent", *verb, "--help"], capture_output=True, text=True, check=True
        )
        assert [option for option in options if option not in asked.stdout] == [], words
        assert not words or words[0] in {*_AGENT_WORDS, "--version"}, words


def test_what_the_table_of_keys_calls_required_is_what_the_agent_cannot_start_without(generator: ModuleType) -> None:
    rows = [row.split("|") for row in generator.agent_keys().splitlines() if row.startswith("| `")]
    required = {row[1].strip(" `") for row in rows if row[2].strip() == "required"}
    sections = {"": Config, "enrolment.": Enrolment, "trust.": Trust, "inference.delegate.": DelegateSection}
    sections |= {"source.": Source, "sink.": Sink, "source.mqtt.": Messages, "sink.mqtt.": TopicSink}
    sections |= {"source.directory.": Directory, "source.camera.": Camera, "source.replay.": Replay}
    sections |= {"sink.file.": FileSink, "sink.command.": Command, "samples.watch.": WatchRule}
    fields = ((head + name, field) for head, model in sections.items() for name, field in model.model_fields.items())
    assert required == {key for key, field in fields if field.is_required()} - {"trust"}
