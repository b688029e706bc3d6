"""What every command shares: the context file, and whether the optional parts are installed."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from dsops.errors import MissingExtra
from dsops_controller.client import Access, Client

DEFAULT_CONTEXT = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "dsops" / "operator.toml"

ContextFile = Annotated[
    Path,
    typer.Option(
        "--context",
        envvar="DSOPS_CONTEXT",
        show_default="~/.config/dsops/operator.toml",
        help="context file: the controller's address, CA and token",
    ),
]


@contextmanager
def connected(context: Path) -> Iterator[Client]:
    """Open a client for the controller that a context file names."""
    client = Client(Access.load(context))
    try:
        yield client
    finally:
        client.close()


def optional(module: str, extra: str) -> ModuleType:
    """Import a module that needs an optional part of the distribution.

    Raises:
        MissingExtra: That part is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if (error.name or "").startswith("dsops"):
            raise
        raise MissingExtra(
            f"this command needs the extra {extra!r}",
            why=f"{error.name} is not installed",
            hint=f"pip install 'dsops[{extra}]'",
        ) from error
