"""``dsops trust key``: make a key, or show the public half of one, wherever it is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsops.errors import Conflict, InvalidInput
from dsops.files import write_atomically
from dsops_controller.cli import output, secrets, session

if TYPE_CHECKING:
    from securesystemslib.signer import Key

app = typer.Typer(help="Make keys and hand over their public halves.", no_args_is_help=True)
Holder = Annotated[str | None, typer.Option("--holder", help="who holds it [from the file's name or the label]")]
To = Annotated[Path | None, typer.Option("--to", help="file for the public half [HOLDER.pub]")]


@app.command()
def new(
    uri: Annotated[str, typer.Argument(help="where to make it, for example file:alice.pem")],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="lock it; else anybody with the file has it")
    ] = False,
    holder: Holder = None,
    to: To = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Make a key in a file (Ed25519, PKCS #8, mode 0600), and HOLDER.pub to hand over.

    Example: dsops trust key new file:alice.pem --passphrase

    A token makes its key itself, with its own program; then: dsops trust key show hsm:2?label=alice
    """
    signers = session.optional("dsops_controller.trust.signers", "controller")
    scheme, _, path = uri.partition(":")
    if scheme != "file" or not path:
        hint = "with the token's own program, for example pkcs11-tool or ykman; then: dsops trust key show URI"
        raise InvalidInput(f"{uri!r} is made elsewhere", why="only file: keys are made here", hint=hint)
    name = holder or signers.holder_from(uri)
    public = _place(to, name, is_new=True)
    key = signers.make_file(Path(path), secrets.new_passphrase() if passphrase else "")
    _tell(key, name, public, form)


@app.command()
def show(
    uri: Annotated[str, typer.Argument(help="file:alice.pem, hsm:2?label=alice, awskms:..., gcpkms:..., ...")],
    holder: Holder = None,
    to: To = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show the public half of a key, and write HOLDER.pub to hand over.

    Example: dsops trust key show "hsm:2?label=alice"

    PKCS #11: the variable PYKCS11LIB names the token's library. DSOPS_KEY_SECRET holds the PIN, or you are asked.
    """
    signers = session.optional("dsops_controller.trust.signers", "controller")
    name = holder or signers.holder_from(uri)
    key = signers.open_key(uri, secrets.Secrets()).public
    _tell(key, name, _place(to, name, is_new=False), form)


def _place(to: Path | None, name: str, *, is_new: bool) -> Path:
    public = to or Path(f"{name.replace('/', '-')}.pub")
    output.check_place(public)
    if is_new and public.exists():
        raise Conflict(f"{public} exists", why="it is of another key", hint="name another file: --to FILE")
    return public


def _tell(key: "Key", name: str, public: Path, form: output.Format) -> None:
    holders = session.optional("dsops_controller.trust.holders", "controller")
    named = holders.named(key, name)
    write_atomically(public, holders.encode_public(named))
    facts = {"holder": name, "key": named.keyid, "kind": named.scheme, "public": str(public)}
    output.facts(facts | {"read_aloud": holders.spoken(holders.fingerprint(named))}, form)
