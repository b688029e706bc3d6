"""Private keys by URI: what signs, wherever the key is kept.

    file:alice.pem                  PKCS #8 PEM, Ed25519 or P-256, with a passphrase or without
    hsm:2?label=alice               PKCS #11 token (YubiKey, SoftHSM, ...); PYKCS11LIB names its library
    awskms:ID  gcpkms:PATH  azurekms:https://VAULT.vault.azure.net/keys/NAME  hv:NAME

All but the first are securesystemslib's, each with the library that it needs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlparse

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import (
    AWSSigner,
    AzureSigner,
    CryptoSigner,
    GCPSigner,
    HSMSigner,
    Key,
    Signature,
    Signer,
    VaultSigner,
)

from dsops.errors import Conflict, DsopsError, InvalidInput, MissingExtra, NotFound
from dsops.files import write_secret
from dsops_controller.trust.holders import canonical

T = TypeVar("T")
Ask = Callable[[str], str]
"""Returns a secret by its name: "passphrase" or "pin"."""

SCHEMES = ("file", "hsm", "awskms", "gcpkms", "azurekms", "hv")
_AZURE = re.compile(r"//([a-z0-9-]+)\.vault\.azure\.net/keys/([A-Za-z0-9-]+)")


@dataclass(frozen=True)
class OpenKey:
    """A private key that can be used.

    Attributes:
        uri: Where it is.
        signer: What signs with it.
    """

    uri: str
    signer: Signer

    @cached_property
    def public(self) -> Key:
        """The public half."""
        return canonical(self.signer.public_key)

    def sign(self, payload: bytes) -> Signature:
        """Return a signature; it is checked before it is given away.

        Raises:
            InvalidInput: The key cannot be used: a wrong PIN, a token that was pulled out, no network.
        """

        def made() -> Signature:
            signature = Signature(self.public.keyid, self.signer.sign(payload).signature)
            self.public.verify_signature(signature, payload)
            return signature

        return _guarded(self.uri, made)


def open_key(uri: str, ask: Ask) -> OpenKey:
    """Return a key by its URI.

    Args:
        uri: One of the forms above.
        ask: Is asked for passphrase or PIN when one is needed.

    Raises:
        InvalidInput: The URI is of no known form, or the key cannot be used.
        NotFound: There is no such file.
        MissingExtra: A library is not installed.
    """
    scheme, _, rest = uri.partition(":")
    if scheme not in SCHEMES or (not rest and scheme != "hsm"):
        hint = "for example file:alice.pem or hsm:2?label=alice"
        raise InvalidInput(f"{uri!r} is not a key's URI", why=f"it begins with one of {', '.join(SCHEMES)}", hint=hint)
    if scheme == "file":
        return OpenKey(uri, _file_signer(Path(rest), ask))
    return OpenKey(uri, _guarded(uri, lambda: Signer.from_priv_key_uri(*_imported(scheme, rest, ask), ask)))


def make_file(path: Path, passphrase: str = "") -> Key:
    """Make an Ed25519 key in a file (mode 0600) and return its public half.

    Raises:
        Conflict: The file exists: a key is never written over.
    """
    if path.exists():
        raise Conflict(f"{path} exists", why="a key is never written over", hint="name another file")
    private = ed25519.Ed25519PrivateKey.generate()
    locked = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    write_secret(path, pem)
    return CryptoSigner(private).public_key


def holder_from(uri: str) -> str:
    """Return the name by which a key's holder goes unless another is given: of the file, or the token's label."""
    scheme, _, rest = uri.partition(":")
    label = dict(parse_qsl(urlparse(uri).query)).get("label")
    return label or (Path(rest).stem if scheme == "file" else rest.rpartition("/")[2])


def _file_signer(path: Path, ask: Ask) -> Signer:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise NotFound(f"cannot read the key {path}", why=str(error.strerror)) from error
    try:
        is_locked = b"ENCRYPTED" in pem
        private = serialization.load_pem_private_key(pem, ask("passphrase").encode() if is_locked else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{path} cannot be read as a key", why=str(error)[:200]) from error
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return CryptoSigner(private)
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
        return CryptoSigner(private)
    raise InvalidInput(f"{path} is a key of a kind that is not accepted", why="Ed25519 and P-256 are")


def _imported(scheme: str, rest: str, ask: Ask) -> tuple[str, Key]:
    """Ask the place where a key is kept for its full URI and its public half."""
    match scheme:
        case "hsm":
            number, _, query = rest.partition("?")
            return HSMSigner.import_(int(number or 2), dict(parse_qsl(query)).get("label"), ask)
        case "awskms":
            return AWSSigner.import_(rest)
        case "gcpkms":
            return GCPSigner.import_(rest)
        case "hv":
            return VaultSigner.import_(rest.partition("/")[0])
        case _:
            found = _AZURE.search(rest)
            if found is None:
                raise ValueError("the form is azurekms:https://VAULT.vault.azure.net/keys/NAME")
            return AzureSigner.import_(found[1], found[2])


def _guarded(uri: str, use: Callable[[], T]) -> T:
    """Run what a library of others does with a key; what it may raise is not documented."""
    try:
        return use()
    except DsopsError:
        raise
    except UnsupportedLibraryError as error:
        extra = uri.partition(":")[0]
        wanted = "dsops[hsm]" if extra == "hsm" else f"securesystemslib[{'vault' if extra == 'hv' else extra}]"
        raise MissingExtra(f"{uri} needs a library", why=str(error), hint=f"pip install '{wanted}'") from error
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InvalidInput(f"the key {uri} cannot be used", why=why, hint=_hint(uri)) from error


def _hint(uri: str) -> str:
    if uri.startswith("hsm:"):
        return "check PIN, label and number, and that PYKCS11LIB names the token's PKCS #11 library"
    return "check the URI, and that you may use the key"
