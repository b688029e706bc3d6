"""``dsops bundle``: package, sign, hand over, look at."""

from pathlib import Path
from typing import Annotated

import typer

from dsops.bundle import Bundle, file_digest
from dsops.clock import SystemClock
from dsops.errors import InvalidInput
from dsops.files import write_atomically
from dsops.trust import model_role
from dsops_controller.cli import output, session

app = typer.Typer(help="Package, sign and push models.", no_args_is_help=True)
BundleFile = Annotated[Path, typer.Argument(help="bundle file")]


@app.command()
def build(
    model: Annotated[Path, typer.Argument(help="folder that `dsops model build` wrote")],
    release: Annotated[int, typer.Option("--release", "-r", min=1, help="number of this release of the model")],
    to: Annotated[Path, typer.Option("--to", help="bundle file to write")],
    form: output.Output = output.Format.TABLE,
) -> None:
    """Package a built model: payload, manifest, golden inputs, drift profile. Equal inputs give equal bytes.

    Example: dsops bundle build built --release 1 --to digits-1.bundle
    """
    package = session.optional("dsops_controller.build.package", "build")
    package.build_bundle(model, release, to)
    output.facts(_describe(to), form, hidden=("manifest",))


@app.command()
def sign(
    bundle: BundleFile,
    keys: Annotated[Path, typer.Option("--keys", help="folder of the model owner's offline keys")],
    role: Annotated[Path | None, typer.Option("--role", help="newest role metadata; else asked of the server")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Sign a bundle with the model owner's key; writes BUNDLE.role.json beside it.

    Example: dsops bundle sign digits-1.bundle --keys keys
    """
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    opened = _open(bundle)
    if role:
        current = _read(role)
    else:
        with session.connected(context) as client:
            current = client.role(model_role(opened.manifest.model))
    signed = _role_file(bundle)
    write_atomically(signed, ceremony.sign_bundle(bundle, keys, current))
    output.done({"role": str(signed)}, f"signed: {signed}; next: dsops bundle push {bundle}", form)


@app.command()
def push(
    bundle: BundleFile,
    role: Annotated[Path | None, typer.Option("--role", help="signed metadata (default BUNDLE.role.json)")] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Hand a signed bundle to the controller, which offers it to devices as chunks."""
    _open(bundle).verify()
    signature = role or _role_file(bundle)
    if not signature.exists():
        hint = f"sign the bundle first: dsops bundle sign {bundle} --keys KEYS"
        raise InvalidInput(f"{signature} is missing", why="it holds the signature of the bundle", hint=hint)
    with session.connected(context) as client:
        output.facts(client.push(_read(bundle), _read(signature)), form, hidden=("manifest", "pushed_ms"))


@app.command("list")
def list_(context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE) -> None:
    """List the bundles that the controller holds."""
    columns = {
        "model": "MODEL",
        "release": "RELEASE",
        "variant": "VARIANT",
        "length_bytes": "BYTES",
        "sha256": "SHA256",
    }
    with session.connected(context) as client:
        output.rows(client.bundles(), columns, form)


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="bundle file, or MODEL/RELEASE on the controller")],
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show everything that a bundle says of itself.

    Example: dsops bundle show digits/1
    """
    if Path(what).is_file():
        output.facts(_describe(Path(what)), form)
        return
    model, _, release = what.partition("/")
    if not release.isdecimal():
        raise InvalidInput(
            f"{what} is neither a file nor MODEL/RELEASE", hint="for example: dsops bundle show digits/2"
        )
    with session.connected(context) as client:
        output.facts(client.bundle(model, int(release)), form, hidden=("pushed_ms",))


@app.command()
def verify(
    bundle: BundleFile,
    root: Annotated[
        Path | None, typer.Option("--root", help="1.root.json: check the signatures from this root")
    ] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Check a bundle: structure, every digest, and with --root the signatures that the controller publishes for it."""
    _open(bundle).verify()
    result = _describe(bundle) | {"signed": "not checked (give --root)"}
    if root:
        verification = session.optional("dsops_controller.trust.verification", "controller")
        with session.connected(context) as client:
            pack = client.trust_pack(str(result["model"]))
        path = verification.check_bundle(bundle, _read(root), pack, SystemClock().now())
        result["signed"] = f"yes, as {path}"
    output.facts(result, form, hidden=("manifest",))


def _open(path: Path) -> Bundle:
    if not path.is_file():
        raise InvalidInput(f"there is no bundle {path}", hint="make one: dsops bundle build")
    return Bundle.open(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=str(error.strerror), hint="check the path") from error


def _role_file(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.role.json")


def _describe(path: Path) -> dict[str, object]:
    manifest = Bundle.open(path).manifest
    sha256, length = file_digest(path)
    facts = {"file": path.name, "model": manifest.model, "release": manifest.release, "sha256": sha256}
    return facts | {"length_bytes": length, "manifest": manifest.model_dump(mode="json")}
