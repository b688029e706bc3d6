"""Signed envelopes: DSSE 1.0 (Dead Simple Signing Envelope, its protocol.md) with Ed25519 or P-256.

The exact payload bytes are signed, together with their type, so no canonical form has to be agreed on.
"""

import base64
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pydantic import Field, ValidationError

from dsops import strictjson
from dsops.bundle import sha256_hex
from dsops.errors import UntrustedBundle
from dsops.manifest import Frozen, first_problem

MAX_ENVELOPE_BYTES = 64 * 1024

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class Signature(Frozen):
    """One signature, base64, and the id of the key that made it."""

    keyid: str = Field(max_length=128)
    sig: str = Field(max_length=4096)


class Envelope(Frozen):
    """A payload with its type and signatures, as it goes over the wire."""

    payload: str
    payload_type: str = Field(alias="payloadType", max_length=128)
    signatures: tuple[Signature, ...] = Field(min_length=1, max_length=16)

    def encode(self) -> bytes:
        """Return the JSON bytes."""
        return strictjson.dumps(self.model_dump(mode="json", by_alias=True))

    def content(self) -> bytes:
        """Return the payload's bytes, not trusted yet.

        Raises:
            UntrustedBundle: They are not base64.
        """
        return _decode64(self.payload)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: PAE(type, payload) of the DSSE protocol."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(key: PublicKey) -> str:
    """Return a key's id: SHA-256 (hex) of its DER SubjectPublicKeyInfo."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256_hex(der)


def load_public_key(pem: str) -> PublicKey:
    """Parse a PEM public key.

    Raises:
        UntrustedBundle: It is no Ed25519 or P-256 key.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError as error:
        raise UntrustedBundle("a trusted key cannot be read", why=str(error)) from error
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise UntrustedBundle("a trusted key is of a kind that is not accepted", why="Ed25519 and P-256 are")
    return key


def public_pem(key: PublicKey) -> str:
    """Return a key's PEM text."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")


def sign(payload_type: str, payload: bytes, *keys: PrivateKey) -> Envelope:
    """Return an envelope with one signature a key."""
    message = pre_authentication_encoding(payload_type, payload)
    signatures = tuple(
        Signature(keyid=key_id(key.public_key()), sig=base64.b64encode(_sign(key, message)).decode()) for key in keys
    )
    return Envelope(payload=base64.b64encode(payload).decode(), payloadType=payload_type, signatures=signatures)


def verify(data: bytes, payload_type: str, keys: Mapping[str, PublicKey], threshold: int = 1) -> bytes:
    """Return the payload of an envelope that enough distinct trusted keys signed.

    Raises:
        UntrustedBundle: The bytes are not an envelope of this type, or too few trusted keys signed.
    """
    envelope = decode(data, payload_type)
    good = signers(envelope, keys)
    if len(good) < threshold:
        raise UntrustedBundle("the envelope is not signed by trusted keys", why=f"{len(good)} of {threshold} needed")
    return envelope.content()


def signers(envelope: Envelope, keys: Mapping[str, PublicKey]) -> frozenset[str]:
    """Return the ids of those trusted keys whose signature of the envelope is good.

    Raises:
        UntrustedBundle: The payload is not base64.
    """
    message = pre_authentication_encoding(envelope.payload_type, envelope.content())
    return frozenset(s.keyid for s in envelope.signatures if s.keyid in keys and _is_valid(keys[s.keyid], s, message))


def decode(data: bytes, payload_type: str) -> Envelope:
    """Parse an envelope without trusting it.

    Raises:
        UntrustedBundle: It is too long, not an envelope, or of another type.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise UntrustedBundle("the envelope is too long", why=f"{len(data)} bytes, {MAX_ENVELOPE_BYTES} allowed")
    try:
        envelope = Envelope.model_validate(strictjson.loads(data))
    except strictjson.JsonRefused as error:
        raise UntrustedBundle("the envelope is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise UntrustedBundle("the envelope is not valid", why=first_problem(error)) from error
    if envelope.payload_type != payload_type:
        raise UntrustedBundle("the envelope is of another type", why=f"{envelope.payload_type!r}, not {payload_type!r}")
    return envelope


def _decode64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise UntrustedBundle("the envelope is not valid", why=f"base64: {error}") from error


def _sign(key: PrivateKey, message: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _is_valid(key: PublicKey, signature: Signature, message: bytes) -> bool:
    try:
        raw = _decode64(signature.sig)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(raw, message)
        else:
            key.verify(raw, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, UntrustedBundle):
        return False
    return True
