"""``dsops sample keygen`` and ``unseal``: inputs that only the data team can read. Neither asks the controller."""

from pathlib import Path
from typing import Annotated

import typer

from dsops.errors import Conflict, InvalidInput
from dsops.files import write_atomically, write_secret
from dsops.sample_sealing import new_private_key, private_key, public_text
from dsops_controller.cli import output
from dsops_controller.dataops.samples.unsealing import unseal_file

_MAX_KEY_BYTES = 4096


def add_to(app: typer.Typer) -> None:
    """Add the commands to those about samples."""
    app.command()(keygen)
    app.command()(unseal)


def keygen(
    to: Annotated[Path, typer.Argument(help="file for the private key; it stays with the data team")],
    form: output.Output = output.Format.TABLE,
) -> None:
    """Make a key to seal the inputs of samples for, and print what devices need of it.

    Example: dsops sample keygen data-team.pem

    Put the printed text into the agent's configuration, as seal_to in the section samples. Who has the file can read
    the inputs; nobody else can, neither the controller nor the store. If it is lost, so are they.
    """
    if to.exists():
        raise Conflict(f"{to} is there already", hint="what was sealed for it could never be opened: name another file")
    output.check_place(to)
    pem = new_private_key()
    write_secret(to, pem)
    public = public_text(private_key(pem))
    output.done({"file": str(to), "seal_to": public}, f'seal_to = "{public}"', form)


def unseal(
    exported: Annotated[Path, typer.Argument(help="what `dsops sample export` wrote (.parquet)")],
    to: Annotated[Path, typer.Argument(help="file to write (.parquet)")],
    key: Annotated[Path, typer.Option("--key", help="private key that `dsops sample keygen` wrote")],
    form: output.Output = output.Format.TABLE,
) -> None:
    """Open the sealed inputs of exported samples, where the private key is.

    Example: dsops sample unseal samples.parquet open.parquet --key data-team.pem
    """
    output.check_place(to)
    own = private_key(_read(key))
    data, count = unseal_file(exported, own)
    write_atomically(to, data)
    output.done({"file": str(to), "opened": count}, f"{to}: {count} inputs opened", form)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except OSError as error:
        hint = "give the file that `dsops sample keygen` wrote"
        raise InvalidInput(f"cannot read {path}", why=str(error.strerror), hint=hint) from error
