"""Inputs of samples for the data team only: the store holds what it cannot read.

HPKE (RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM). A sealed input is bound to what its
record says of it: the bundle that answered, the time, and the tensor's type and shape; put beside another record it
does not open.
"""

import base64
import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from dsops import strictjson
from dsops.errors import InvalidInput, SampleSealed
from dsops.sealing import recipient_key

SEALED_EXTRA_BYTES = 32 + 16
"""What sealing adds: an ephemeral key and a tag."""
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def public_key(text: str) -> X25519PublicKey:
    """Return the key that stands in an agent's configuration, in base64.

    Raises:
        InvalidInput: It is none.
    """
    try:
        return recipient_key(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise InvalidInput("this is no public key to seal samples to", why=str(error)) from error


def public_text(key: X25519PrivateKey) -> str:
    """Return what devices need to seal samples for a private key."""
    return base64.b64encode(_raw(key.public_key())).decode()


def key_id(key: X25519PublicKey) -> bytes:
    """Return what sealed samples name the key by."""
    return hashlib.sha256(_raw(key)).digest()


def new_private_key() -> bytes:
    """Return a fresh private key as PEM."""
    return X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def private_key(pem: bytes) -> X25519PrivateKey:
    """Return the private key in a PEM file.

    Raises:
        InvalidInput: It is none, or of another kind.
    """
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise InvalidInput("this file holds no private key to open samples with", why=str(error)) from error
    if not isinstance(key, X25519PrivateKey):
        raise InvalidInput("this is a private key, but not one to open samples with", why="it is not of X25519")
    return key


def seal(data: bytes, to: X25519PublicKey, digest: str, time_us: int, datatype: str, shape: Sequence[int]) -> bytes:
    """Return data that only the holder of the private key can read."""
    return _SUITE.encrypt(data, to, _info(digest, time_us, datatype, shape))


def unseal(
    ciphertext: bytes, own: X25519PrivateKey, digest: str, time_us: int, datatype: str, shape: Sequence[int]
) -> bytes:
    """Return what was sealed.

    Raises:
        SampleSealed: It was sealed for another key or another record, or is damaged.
    """
    try:
        return _SUITE.decrypt(ciphertext, own, _info(digest, time_us, datatype, shape))
    except (InvalidTag, ValueError) as error:
        raise SampleSealed(
            "a sample cannot be opened", why="it was sealed for another key or for another record, or is damaged"
        ) from error


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _info(digest: str, time_us: int, datatype: str, shape: Sequence[int]) -> bytes:
    named = {"datatype": datatype, "digest": digest, "shape": list(shape), "time_us": time_us}
    return b"dsops/sample/1\0" + strictjson.dumps(named)
