"""Files with the secrets that bundles are sealed with: one line of 64 hex digits, for its owner only."""

import re
from collections.abc import Sequence
from pathlib import Path

from dsops.errors import ContentSealed, InvalidInput
from dsops.files import write_secret
from dsops.manifest import Manifest
from dsops.sealing import ContentKey, content_key, new_secret

_LINE = re.compile(rb"([0-9a-f]{64})\n?")


def read_or_make_secret(path: Path) -> bytes:
    """Return the secret in a file; a fresh one is written if the file is not there.

    Raises:
        InvalidInput: The file holds something else, or cannot be read or written.
        NoSpace: The disk is full.
    """
    if path.exists():
        return read_secret(path)
    secret = new_secret()
    try:
        write_secret(path, secret.hex().encode() + b"\n")
    except OSError as error:
        raise InvalidInput(f"cannot write {path}", why=str(error.strerror)) from error
    return secret


def read_secret(path: Path) -> bytes:
    """Return the secret in a file.

    Raises:
        InvalidInput: The file holds something else, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = _LINE.fullmatch(file.read(128))
    except OSError as error:
        hint = "give the file that `dsops bundle build --seal` wrote"
        raise InvalidInput(f"cannot read {path}", why=str(error.strerror), hint=hint) from error
    if found is None:
        raise InvalidInput(f"{path} holds no secret of sealed bundles", why="it is a line of 64 hex digits")
    return bytes.fromhex(found[1].decode())


def find_key(manifest: Manifest, files: Sequence[Path]) -> ContentKey | None:
    """Return the content key of a bundle by the first secret that fits; None when it is not sealed.

    Raises:
        ContentSealed: None fits, or there are none.
        InvalidInput: A file holds no secret.
    """
    if manifest.sealed is None:
        return None
    for file in files:
        try:
            return content_key(read_secret(file), manifest)
        except ContentSealed:
            continue
    named = f"{manifest.model} {manifest.release} {manifest.variant}"
    raise ContentSealed(
        f"{named} is encrypted",
        why="it was sealed with another secret" if files else "its content key is needed",
        hint="give the file that it was built with: --content-key KEYFILE",
    )
