"""``dsops bundle``: package, sign, hand over, look at, compare."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from dsops.bundle import Bundle, file_digest
from dsops.clock import SystemClock
from dsops.dsse import PublicKey
from dsops.errors import InvalidInput, NotFound
from dsops.files import write_atomically
from dsops.manifest import Manifest
from dsops.sealing import read_blob
from dsops.trust import model_role
from dsops_controller.cli import bundle_diff, bundle_show, delivery, output, secrets, session
from dsops_controller.cli.content_keys import find_key, read_or_make_secret

T = TypeVar("T")

app = typer.Typer(help="Package, sign and push models.", no_args_is_help=True)
BundleFile = Annotated[Path, typer.Argument(help="bundle file")]
ContentKeyFile = Annotated[
    Path | None, typer.Option("--content-key", help="KEYFILE of `dsops bundle build --seal`, if the bundle is sealed")
]


@app.command()
def build(
    model: Annotated[Path, typer.Argument(help="folder that `dsops model build` wrote")],
    release: Annotated[int, typer.Option("--release", "-r", min=1, help="number of this release of the model")],
    to: Annotated[Path, typer.Option("--to", help="bundle file to write, or a folder that is there")],
    variant: Annotated[str | None, typer.Option("--variant", help="which variant, if the build has several")] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="folder of the model owner's offline keys: adds signed provenance")
    ] = None,
    builder: Annotated[
        str | None, typer.Option("--builder", help="URI of the builder in the provenance [urn:dsops:local-build]")
    ] = None,
    seal: Annotated[
        Path | None,
        typer.Option("--seal", help="encrypt payload and golden inputs with this KEYFILE, made if it is not there"),
    ] = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Package a built model: one bundle a variant, with its documents. Equal inputs give equal bytes.

    Example: dsops bundle build built --release 1 --to digits-1.bundle

    Given a folder, writes MODEL-RELEASE-VARIANT.bundle there, for each variant or the named one. With --seal only
    devices to which the controller sends the key can read the model; keep KEYFILE as you keep the model.
    """
    package = session.optional("dsops_controller.build.bundles.package", "build")
    signer, secret = _signer(model, keys, builder), read_or_make_secret(seal) if seal else None
    if to.is_dir():
        written = package.build_bundles(model, release, to, variant, signer, secret)
    else:
        written = {to: package.build_bundle(model, release, to, variant, signer, secret)}
    facts = [_summary(path) for path in written]
    if to.is_dir():
        columns = {"file": "FILE", "variant": "VARIANT", "length_bytes": "BYTES", "sha256": "SHA256"}
        output.rows(facts, columns, form)
    else:
        output.facts(facts[0], form, hidden=("manifest",))


@app.command()
def sign(
    bundle: BundleFile,
    keys: Annotated[Path | None, typer.Option("--keys", help="folder with the owner's key model-NAME.pem")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="the owner's key: file:erin.pem, hsm:2?label=erin, ...; repeatable"),
    ] = None,
    role: Annotated[Path | None, typer.Option("--role", help="newest role metadata; else asked of the server")] = None,
    known_root: Annotated[
        Path | None, typer.Option("--known-root", help="a root that you know, if your key did not sign the newest role")
    ] = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Sign a bundle with a model owner's key; writes BUNDLE.role.json beside it.

    Example: dsops bundle sign digits-1.bundle --key file:erin.pem

    Where several owners must sign, hand BUNDLE and BUNDLE.role.json on: the next one's signature is added.
    """
    roles = session.optional("dsops_controller.trust.bundle_roles", "controller")
    opened, signature = _open(bundle), _role_file(bundle)
    owners = _owner_keys(opened.manifest.model, keys, key or ())
    now = SystemClock().now()
    current, is_vouched = _current_role(opened.manifest.model, role, known_root, context)
    pending = output.read_file(signature) if signature.exists() else None
    signed = roles.approve(bundle, current, owners, now, pending=pending, is_vouched=is_vouched)
    write_atomically(signature, signed)
    count = len(roles.model_role_of(signed, opened.manifest.model).signatures)
    given = f"signed: {signature} ({count} signature{'s' if count > 1 else ''})"
    push = f"dsops bundle push {bundle}" + (" --content-key KEYFILE" if opened.manifest.sealed else "")
    output.done({"role": str(signature), "signatures": count}, f"{given}; next: {push}", form)


@app.command()
def push(
    bundle: BundleFile,
    role: Annotated[Path | None, typer.Option("--role", help="signed metadata (default BUNDLE.role.json)")] = None,
    content_key: ContentKeyFile = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Hand a signed bundle to the controller, which offers it to devices as chunks.

    The controller gets the key of this one bundle, not the secret in KEYFILE, and wraps it for each device.
    """
    opened = _open(bundle)
    opened.verify()
    key = find_key(opened.manifest, _given(content_key))
    signature = role or _role_file(bundle)
    if not signature.exists():
        hint = f"sign the bundle first: dsops bundle sign {bundle} --key URI"
        raise InvalidInput(f"{signature} is missing", why="it holds the signature of the bundle", hint=hint)
    with session.connected(context) as client:
        data = (output.read_file(bundle), output.read_file(signature))
        pushed = client.push(*data, key.data if key else None)
    output.facts(pushed, form, hidden=("manifest", "pushed_ms"))


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
    what: Annotated[str, typer.Argument(help="bundle file, or MODEL/RELEASE or MODEL/RELEASE/VARIANT of the server")],
    content_key: ContentKeyFile = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show everything that a bundle says of itself; of one on the controller, its manifest.

    Example: dsops bundle show digits/1
    """
    if Path(what).exists() and not Path(what).is_dir():
        bundle_show.show(bundle_show.describe(Path(what), _given(content_key)), form)
        return
    model, _, rest = what.partition("/")
    release, _, variant = rest.partition("/")
    if not release.isdecimal():
        raise InvalidInput(
            f"{what} is neither a file nor MODEL/RELEASE", hint="for example: dsops bundle show digits/2"
        )
    with session.connected(context) as client:
        bundle_show.show(client.bundle(model, int(release), variant or None), form)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="older bundle file")],
    after: Annotated[Path, typer.Argument(help="newer bundle file")],
    content_keys: Annotated[
        list[Path] | None, typer.Option("--content-key", help="KEYFILE of sealed bundles; may be given twice")
    ] = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Show what changed between two bundles, and what the update costs over the air.

    Example: dsops bundle diff digits-1.bundle digits-2.bundle

    Ends with exit code 0 whether they differ or not; `-o json` says it as `equal`.
    """
    compare = session.optional("dsops_controller.build.bundles.compare", "build")
    old, new = (_contents(path, compare.Contents, content_keys or ()) for path in (before, after))
    names = {"before": before.name, "after": after.name}
    bundle_diff.show(names | compare.compare(old, new).as_dict(), form)


@app.command()
def export(
    what: Annotated[
        list[str], typer.Argument(help="bundle files, or those of the server by MODEL/RELEASE or MODEL/RELEASE/VARIANT")
    ],
    to: Annotated[Path, typer.Option("--out", help="folder to write into; made if it is not there")],
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Write bundles by their digest, for a web server from which devices fetch them (transfer.http in agent.toml).

    Example: dsops bundle export digits/2 --out /srv/bundles

    With bundles of the server their trust documents come along. Files that are there already stay.
    """
    if all(Path(name).is_file() for name in what):
        written = delivery.export(what, delivery.Files(to), None)
    else:
        with session.connected(context) as client:
            written = delivery.export(what, delivery.Files(to), client)
    columns = {"bundle": "BUNDLE", "length_bytes": "BYTES", "sha256": "SHA256"}
    output.rows(written, columns, form)


@app.command()
def extract(
    bundle: BundleFile,
    to: Annotated[Path, typer.Option("--to", help="folder to write into; made if it is not there")],
    names: Annotated[list[str] | None, typer.Argument(help="blobs to write; all of them if none is named")] = None,
    content_key: ContentKeyFile = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Write the blobs of a bundle as files, each checked by its digest; sealed ones are decrypted.

    Example: dsops bundle extract digits-1.bundle --to parts sbom.cdx.json
    """
    opened = _open(bundle)
    sealed = opened.manifest.sealed
    decrypted = {blob.name: blob for blob in sealed.blobs} if sealed else {}
    blobs = {blob.name: blob for blob in opened.manifest.blobs} | decrypted
    unknown = [name for name in names or () if name not in blobs]
    if unknown:
        raise NotFound(f"{bundle.name} has no blob {unknown[0]!r}", why=f"it has {', '.join(blobs)}")
    wanted = [blobs[name] for name in dict.fromkeys(names or blobs)]
    opened.verify()
    is_needed = any(blob.name in decrypted for blob in wanted)
    key = find_key(opened.manifest, _given(content_key)) if is_needed else None
    in_the_way = next((blob.name for blob in wanted if (to / blob.name).is_dir()), None)
    if in_the_way:
        raise InvalidInput(f"cannot write {to / in_the_way}", why="it is a folder", hint="name another folder")
    try:
        to.mkdir(exist_ok=True)
        for blob in wanted:
            write_atomically(to / blob.name, read_blob(opened, blob.name, key))
    except OSError as error:
        raise InvalidInput(f"cannot write into {to}", why=str(error.strerror), hint="name a folder") from error
    columns = {"name": "FILE", "size_bytes": "BYTES", "sha256": "SHA256"}
    output.rows([blob.model_dump() for blob in wanted], columns, form)


@app.command()
def verify(
    bundle: BundleFile,
    root: Annotated[
        Path | None, typer.Option("--root", help="1.root.json: check the signatures from this root")
    ] = None,
    content_key: ContentKeyFile = None,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Check a bundle: structure, every digest, and with --root the signatures that the controller publishes for it.

    A provenance must name exactly the bundle's blobs, and with --root be signed by the model's owner. What is sealed is
    opened when its key is given.
    """
    opened = _open(bundle)
    opened.verify()
    result = _summary(bundle) | {"sealed": _unsealed(opened, content_key)} | {"signed": "not checked (give --root)"}
    if root:
        verification = session.optional("dsops_controller.trust.verification", "controller")
        now = SystemClock().now()
        with session.connected(context) as client:
            pack = client.trust_pack(opened.manifest.model)
        result["signed"] = f"yes, as {verification.check_bundle(bundle, output.read_file(root), pack, now)}"
        keys = verification.owner_keys(opened.manifest.model, output.read_file(root), pack, now)
        result |= _provenance(opened, keys)
    else:
        result |= _provenance(opened, None)
    output.facts(result, form, hidden=("manifest",))


def _unsealed(opened: Bundle, file: Path | None) -> str | None:
    """Open what is sealed, if there is a key, and say what came of it."""
    sealed = opened.manifest.sealed
    if sealed is None:
        return None
    names = ", ".join(blob.name for blob in sealed.blobs)
    if file is None:
        return f"{names}; not opened (give --content-key)"
    key = find_key(opened.manifest, (file,))
    for blob in sealed.blobs:
        read_blob(opened, blob.name, key)
    return f"{names}; opened with the content key"


def _given(file: Path | None) -> tuple[Path, ...]:
    return () if file is None else (file,)


def _provenance(opened: Bundle, keys: Mapping[str, PublicKey] | None) -> dict[str, object]:
    """Check a bundle's provenance, as far as keys are known, and say what came of it."""
    name = opened.manifest.documents.provenance
    if name is None:
        return {"provenance": "none"}
    provenance = session.optional("dsops_controller.build.bundles.documents.provenance", "build")
    envelope = opened.read(name)
    if keys is None:
        provenance.check_subjects(envelope, opened.manifest.blobs)
        return {"provenance": "names these blobs; signature not checked (give --root)"}
    builder = provenance.check_provenance(envelope, opened.manifest.blobs, keys)
    return {"provenance": f"signed by the model's owner; built by {builder}"}


def _signer(model: Path, keys: Path | None, builder: str | None) -> object:
    """Return what signs the provenance of a build, if keys are given."""
    if keys is None:
        if builder is not None:
            raise InvalidInput("--builder names who built in a signed provenance", hint="give --keys, too")
        return None
    record = session.optional("dsops_controller.build.record", "build")
    folders = session.optional("dsops_controller.trust.keys", "controller")
    provenance = session.optional("dsops_controller.build.bundles.documents.provenance", "build")
    owner = model_role(record.BuildRecord.read(model).model)
    return provenance.Signer(folders.KeyFolder(keys).private(owner), builder or provenance.LOCAL_BUILDER)


def _owner_keys(model: str, folder: Path | None, uris: Sequence[str]) -> list[object]:
    """Return the keys to sign with: by URI, and the one in a folder."""
    if folder is None and not uris:
        raise InvalidInput(
            "a bundle is signed with a key", hint="--key URI, for example file:erin.pem; or --keys FOLDER"
        )
    signers = session.optional("dsops_controller.trust.signers", "controller")
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    ask = secrets.Secrets()
    found = [signers.open_key(uri, ask) for uri in uris]
    return found + ([ceremony.owner_key(folder, model)] if folder is not None else [])


def _current_role(model: str, role: Path | None, known_root: Path | None, context: Path) -> tuple[bytes, bool]:
    """Return a model's published role, and whether it was found to follow from a root that the owner knows."""
    if role is not None:
        if known_root is not None:
            raise InvalidInput("--known-root is checked against what the server publishes", hint="leave --role out")
        return output.read_file(role), False
    with session.connected(context) as client:
        if known_root is None:
            return client.role(model_role(model)), False
        pack = client.trust_pack(model)
    verification = session.optional("dsops_controller.trust.verification", "controller")
    return verification.published_role(model, output.read_file(known_root), pack, SystemClock().now()), True


def _open(path: Path) -> Bundle:
    if not path.is_file():
        raise InvalidInput(f"there is no bundle {path}", hint="make one: dsops bundle build")
    return Bundle.open(path)


def _role_file(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.role.json")


def _summary(path: Path) -> dict[str, object]:
    sha256, length = file_digest(path)
    facts = {"file": path.name, "sha256": sha256, "length_bytes": length}
    return facts | bundle_show.summary(Bundle.open(path).manifest)


def _contents(
    path: Path, contents: Callable[[bytes, Manifest, dict[str, bytes]], T], content_keys: Sequence[Path]
) -> T:
    opened = _open(path)
    key = find_key(opened.manifest, content_keys)
    blobs = {blob.name: read_blob(opened, blob.name, key) for blob in opened.manifest.blobs}
    return contents(output.read_file(path), opened.manifest, blobs)
