"""Passphrases and PINs: from ``DSOPS_KEY_SECRET``, or asked for at the terminal."""

import os
import sys

import typer

from dsops.errors import InvalidInput

VARIABLE = "DSOPS_KEY_SECRET"


class Secrets:
    """Asks for each secret once. Calling it with a secret's name returns it."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """Return a secret.

        Raises:
            InvalidInput: There is nobody to ask.
        """
        if name not in self._known:
            self._known[name] = _ask(name)
        return self._known[name]


def new_passphrase() -> str:
    """Return a passphrase for a new key: from the environment, or asked for twice.

    Raises:
        InvalidInput: There is nobody to ask.
    """
    return _ask("passphrase", confirm=True)


def is_attended() -> bool:
    """Whether somebody sits at the terminal."""
    return sys.stdin.isatty()


def _ask(name: str, *, confirm: bool = False) -> str:
    given = os.environ.get(VARIABLE)
    if given:
        return given
    if not is_attended():
        raise InvalidInput(f"the key needs its {name}", hint=f"set {VARIABLE}, or run this in a terminal")
    asked: str = typer.prompt(name, hide_input=True, confirmation_prompt=confirm, err=True)
    return asked
