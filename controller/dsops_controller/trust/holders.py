"""Public keys of people: the file that a holder hands over, and the name that is signed with the key.

A file ``alice.pub`` is a PEM public key under a line ``Holder: alice``. In the metadata the name stands in the field
``x-dsops-holder`` of the key, so that whoever signs there says who holds which key.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, SSlibKey

from dsops.bundle import sha256_hex
from dsops.errors import InvalidInput, UntrustedBundle

HOLDER_FIELD = "x-dsops-holder"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}")
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n?", re.DOTALL)
_LINE = re.compile(rb"Holder: *([^\r\n]*)")
_MAX_BYTES = 16 * 1024


def named(key: Key, holder: str) -> Key:
    """Return the key under its holder's name.

    Raises:
        InvalidInput: It is not a name.
    """
    if not _NAME.fullmatch(holder):
        hint = "letters, digits, spaces and . _ @ + - ; 64 of them at most"
        raise InvalidInput(f"{holder[:80]!r} is not a holder's name", hint=hint)
    return Key.from_dict(key.keyid, key.to_dict() | {HOLDER_FIELD: holder})


def holder_of(key: Key) -> str:
    """Return who holds a key, as the metadata says; a key without a name goes by the beginning of its id."""
    name = key.unrecognized_fields.get(HOLDER_FIELD)
    return name if isinstance(name, str) and _NAME.fullmatch(name) else f"key {key.keyid[:8]}"


def canonical(key: Key) -> SSlibKey:
    """Return a key in the one form from which its id follows, however the place where it is kept writes it.

    Raises:
        InvalidInput: It is of a kind that is not accepted.
    """
    public = str(key.keyval.get("public", ""))
    try:
        if key.keytype == "ed25519":
            return SSlibKey.from_crypto(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError as error:
        raise InvalidInput("the key is not an Ed25519 key", why=str(error)) from error
    return SSlibKey.from_crypto(_accepted(public.encode(), "the key"))


def encode_public(key: Key) -> bytes:
    """Return a public key's file.

    Raises:
        InvalidInput: The key is of a kind that is not accepted.
    """
    pem = str(key.keyval["public"]).encode()
    if key.keytype == "ed25519":
        raw = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(pem.decode()))
        pem = raw.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"Holder: {holder_of(key)}\n".encode() + pem.rstrip() + b"\n"


def read_public(path: Path) -> Key:
    """Read a public key's file; without a line ``Holder:`` its name is the holder's.

    Raises:
        InvalidInput: It is not one, or the key is of a kind that is not accepted.
    """
    try:
        data = path.read_bytes()[:_MAX_BYTES]
    except OSError as error:
        hint = "make it: dsops trust key new, or dsops trust key show"
        raise InvalidInput(f"cannot read the public key {path}", why=str(error.strerror), hint=hint) from error
    pem, line = _PEM.search(data), _LINE.match(data)
    if b"PRIVATE KEY" in data:
        raise InvalidInput(f"{path} holds a private key", hint="hand over the public half only: dsops trust key show")
    if pem is None:
        raise InvalidInput(f"{path} is not a public key", why="it has no PEM block PUBLIC KEY")
    key = SSlibKey.from_crypto(_accepted(pem[0], str(path)))
    return named(key, line.group(1).decode("utf-8", "replace").strip() if line else path.stem)


def fingerprint(key: Key) -> str:
    """Return the SHA-256 (hex) over what a key is; the same as its id, whatever the metadata says that its id is."""
    content = {"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}
    return sha256_hex(str(encode_canonical(content)).encode())


def check_ids(keys: Iterable[Key]) -> None:
    """Check that every key goes by the id that follows from it: so one key cannot count twice.

    Raises:
        UntrustedBundle: One does not.
    """
    for key in keys:
        if key.keyid != fingerprint(key):
            raise UntrustedBundle(f"the id of {holder_of(key)}'s key is not its own", why=f"it says {key.keyid[:64]}")


def spoken(digest: str) -> str:
    """Return a digest in groups of four, to be read aloud."""
    return " ".join(digest[place : place + 4] for place in range(0, len(digest), 4))


def _accepted(pem: bytes, name: str) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{name} is not a public key", why=str(error)[:200]) from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise InvalidInput(f"{name} is of a kind that is not accepted", why="Ed25519 and P-256 are")
