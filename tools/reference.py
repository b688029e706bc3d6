#!/usr/bin/env python3
"""Writes the parts of the documents that are made from the programs; ``make docs`` runs it, a test finds them stale.

All of ``docs/reference/cli.md``; the keys in ``agent.md``; the codes in ``errors.md``; the rules in ``trust-rules.md``;
the install machine's picture in ``architecture.md``.
"""

import inspect
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, cast

from typer.main import get_command

from dsops import errors, trust
from dsops.exits import exit_code
from dsops_agent import config
from dsops_agent.install import machine
from dsops_controller.cli.root import app

ROOT = Path(__file__).parents[1]
CLI_PAGE = ROOT / "docs/reference/cli.md"
AGENT_PAGE = ROOT / "docs/reference/agent.md"
ERRORS_PAGE = ROOT / "docs/reference/errors.md"
ARCHITECTURE_PAGE = ROOT / "docs/architecture.md"
RULES_PAGE = ROOT / "docs/reference/trust-rules.md"
BEGIN, END = "<!-- generated: make docs -->", "<!-- end of generated -->"
_MINIMAL = """\
device = "cam-1"
state = "/var/lib/dsops"
[enrolment]
address = "controller:8445"
ca = "/etc/dsops/ca.crt"
[trust]
root = "/etc/dsops/1.root.json"
[inference.delegate]
library = "libedgetpu.so.1"
"""
_HEAD = """\
# Commands of `dsops`

Written by `make docs` from the program itself. Every command has `--help`. Options of many commands:

| option | meaning |
| --- | --- |
| `-o json`, `--output json` | print the result as JSON, and an error as JSON on standard error |
| `--context FILE` | what `dsops server init` wrote; else `DSOPS_CONTEXT`, else `~/.config/dsops/operator.toml` |
| `--debug` | show the traceback of an error |

Results go to standard output, everything else to standard error. Exit codes: [errors and exit codes](errors.md).
"""
_SHARED = {"output", "context", "help", "form"}


class Parameter(Protocol):
    """What is used of a parameter of typer."""

    name: str
    param_type_name: str
    nargs: int
    opts: list[str]
    help: str
    required: bool
    default: object


class Command(Protocol):
    """What is used of a command of typer; only a group has commands."""

    help: str
    params: list[Parameter]
    commands: dict[str, "Command"]


def cli_page() -> str:
    """Return the page about ``dsops``."""
    root = cast("Command", get_command(app))
    return "\n".join([_HEAD, *_group(root, "dsops")]).rstrip() + "\n"


def _group(group: Command, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        here = f"{path} {name}"
        if hasattr(command, "commands"):
            yield f"## {here}\n\n{command.help}\n"
            yield from _group(command, here)
        else:
            yield from _command(command, here)


def _command(command: Command, path: str) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = [p.name.upper() + ("..." if p.nargs == -1 else "") for p in arguments]
    yield f"### {' '.join([path, *words])}\n"
    paragraphs = [" ".join(text.split()) for text in command.help.split("\n\n")]
    yield "\n\n".join(_example(text) for text in paragraphs) + "\n"
    options = [p for p in command.params if p.param_type_name == "option" and p.name not in _SHARED]
    if arguments or options:
        yield "| argument or option | meaning | default |\n| --- | --- | --- |"
        yield from (_row(parameter) for parameter in [*arguments, *options])
        yield ""


def _example(text: str) -> str:
    return f"Example: `{text.removeprefix('Example: ')}`" if text.startswith("Example: ") else text


def _row(parameter: Parameter) -> str:
    is_argument = parameter.param_type_name == "argument"
    names = parameter.name.upper() if is_argument else ", ".join(sorted(parameter.opts, key=len))
    has_default = parameter.default is not None and parameter.default is not False
    default = "required" if parameter.required else parameter.default if has_default else ""
    return f"| `{names}` | {parameter.help} | {default} |"


def agent_keys() -> str:
    """Return the table of the keys of ``agent.toml``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.toml"
        path.write_text(_MINIMAL)
        settings = config.load(path).settings()
    return "\n\n".join(
        [
            _key_table(settings),
            "Keys of the tables of which there may be several; a source or sink is of one kind:",
            _key_table(config.tables()),
        ]
    )


def _key_table(settings: Iterable[config.Setting]) -> str:
    rows = [f"| `{s.key}` | {_default(s)} | {s.meaning} |" for s in settings]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])


def _default(setting: config.Setting) -> str:
    if setting.origin == "file":
        return "required"
    value = str(setting.value).lower() if isinstance(setting.value, bool) else str(setting.value)
    return value or "empty"


def error_codes() -> str:
    """Return the table of the error tree."""
    tree = sorted(
        (code, cls) for code, cls in errors.every_error().items() if cls.__module__.startswith(errors.__name__)
    )
    rows = [
        f"| `{code}` | {int(exit_code(cls('')))} | {_first_line(cls)} | {cls.default_hint or '-'} |"
        for code, cls in tree
    ]
    head = (
        "| error code | exit code | meaning | what to do, when nothing more exact is said |\n| --- | --- | --- | --- |"
    )
    return "\n".join([head, *rows])


def _first_line(cls: type[errors.DsopsError]) -> str:
    return (inspect.getdoc(cls) or "").splitlines()[0]


def machine_picture() -> str:
    """Return the install machine as a Mermaid block."""
    return f"```mermaid\n{machine.mermaid().strip()}\n```"


def trust_rules() -> str:
    """Return the table of the trust rules."""
    rows = [
        f"| {number} | {rule.name} | {rule.demands} | `{rule.refusal.code}` |"
        for number, rule in enumerate(trust.RULES, 1)
    ]
    return "\n".join(["| | rule | what must hold | code of a refusal |", "| --- | --- | --- | --- |", *rows])


PARTS: dict[Path, Callable[[], str]] = {
    AGENT_PAGE: agent_keys,
    ERRORS_PAGE: error_codes,
    ARCHITECTURE_PAGE: machine_picture,
    RULES_PAGE: trust_rules,
}
"""Pages with one generated part, between the two marks."""


def with_part(page: str, part: str) -> str:
    """Return a page with its generated part made anew."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{rest.partition(END)[2]}"


def pages() -> dict[Path, str]:
    """Return what every generated page should be."""
    return {CLI_PAGE: cli_page()} | {path: with_part(path.read_text(), part()) for path, part in PARTS.items()}


def main() -> int:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
