"""Checks the signature that a source model came with: OpenSSF Model Signing 1.0, made with a key.

Such a signature is a Sigstore bundle (its ``protobuf-specs``, JSON form) that holds a DSSE envelope; the envelope holds
an in-toto statement whose predicate lists the digest of every file that was signed. What needs other parties, such as
certificates of an identity provider, cannot be checked offline and is refused.

It is checked where the model is built. A device trusts the bundle by the keys of its own root, never by this.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pydantic import BaseModel, Field, ValidationError

from dsops import strictjson
from dsops.dsse import PublicKey, key_id, pre_authentication_encoding
from dsops.errors import InvalidInput, UntrustedBundle
from dsops.manifest import first_problem

T = TypeVar("T", bound=BaseModel)

MAX_SIGNATURE_BYTES = 4 << 20
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
WHOLE = "."
"""Name of the only resource when one file was signed, not a folder."""

_CURVE_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_DIGESTS = {"sha256": "sha256", "blake2": "blake2b", "blake2b": "blake2b"}
"""Name of each algorithm in :mod:`hashlib`."""


class _Signature(BaseModel):
    sig: str = Field(max_length=4096)


class _Envelope(BaseModel):
    payload: str
    payload_type: str = Field(alias="payloadType")
    signatures: tuple[_Signature, ...] = Field(min_length=1, max_length=1)


class _Material(BaseModel):
    public_key: dict[str, str] | None = Field(default=None, alias="publicKey")


class _SigstoreBundle(BaseModel):
    """The parts that count here; other readers may know more, so unknown keys are passed over."""

    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope = Field(alias="dsseEnvelope")


class _Resource(BaseModel):
    name: str = Field(min_length=1, max_length=4096)
    algorithm: str
    digest: str = Field(pattern=r"^([0-9a-f]{2}){16,64}$")


class _Predicate(BaseModel):
    resources: tuple[_Resource, ...] = Field(min_length=1, max_length=100_000)


class _Subject(BaseModel):
    digest: dict[str, str]


class _Statement(BaseModel):
    kind: str = Field(alias="_type")
    predicate_type: str = Field(alias="predicateType")
    subject: tuple[_Subject, ...] = Field(min_length=1, max_length=1)
    predicate: _Predicate


@dataclass(frozen=True)
class SignedFile:
    """One file that was signed: its name inside the signed folder, and its digest."""

    name: str
    algorithm: str
    digest: str

    def names(self, name: str, data: bytes) -> bool:
        """Return whether a file of this name and content is the one that was signed."""
        if self.name != WHOLE and self.name.rpartition("/")[2] != name.rpartition("/")[2]:
            return False
        algorithm = _DIGESTS.get(self.algorithm)
        return algorithm is not None and hashlib.new(algorithm, data).hexdigest() == self.digest


def verify_model_signature(signature: bytes, public_key_pem: bytes, files: Mapping[str, bytes]) -> str:
    """Check that the holder of a key signed files, and return who that is: ``key sha256:<id of the key>``.

    Args:
        signature: The signature's file.
        public_key_pem: The signer's public key: Ed25519, or ECDSA on P-256, P-384 or P-521.
        files: Content of each file that is used, by its name. The signature may cover more.

    Raises:
        InvalidInput: The key cannot be read.
        UntrustedBundle: It is not such a signature, another key made it, or it does not cover one of the files.
    """
    key = _load_key(public_key_pem)
    bundle = _parse(signature)
    if bundle.material.public_key is None:
        raise UntrustedBundle(
            "the model's signature was not made with a key",
            why="a certificate cannot be checked offline",
            hint="sign the model with a key: model_signing sign key",
        )
    payload = _payload(bundle.envelope)
    if not _is_valid(key, bundle.envelope, payload):
        raise UntrustedBundle("the model's signature is not of this key", why=f"key sha256:{key_id(key)}")
    signed = _signed_files(payload)
    for name, data in files.items():
        if not any(entry.names(name, data) for entry in signed):
            raise UntrustedBundle(
                f"{name} is not what the signature of the model covers",
                why=f"it names {len(signed)} files, none with this name and digest",
                hint="fetch model and signature again, or sign the model anew",
            )
    return f"key sha256:{key_id(key)}"


def signed_files(signature: bytes) -> tuple[SignedFile, ...]:
    """Return what a signature says it covers, without trusting it.

    Raises:
        UntrustedBundle: It is not such a signature.
    """
    return _signed_files(_payload(_parse(signature).envelope))


def _parse(signature: bytes) -> _SigstoreBundle:
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise UntrustedBundle("the model's signature is too long", why=f"{len(signature)} bytes")
    return _read(_SigstoreBundle, signature, "the model's signature")


def _signed_files(payload: bytes) -> tuple[SignedFile, ...]:
    what = "the statement of the model's signature"
    statement = _read(_Statement, payload, what)
    if (statement.kind, statement.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise UntrustedBundle(f"{what} is of another type", why=statement.predicate_type[:200])
    resources = statement.predicate.resources
    root = hashlib.sha256(b"".join(bytes.fromhex(entry.digest) for entry in resources)).hexdigest()
    if statement.subject[0].digest.get("sha256") != root:
        raise UntrustedBundle(f"{what} contradicts itself", why="its subject is not the digest of its resources")
    return tuple(SignedFile(entry.name, entry.algorithm, entry.digest) for entry in resources)


def _read(shape: type[T], data: bytes, what: str) -> T:
    try:
        return shape.model_validate(strictjson.loads(data))
    except strictjson.JsonRefused as error:
        raise UntrustedBundle(f"{what} is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise UntrustedBundle(f"{what} is not of the OpenSSF form", why=first_problem(error)) from error


def _payload(envelope: _Envelope) -> bytes:
    if envelope.payload_type != PAYLOAD_TYPE:
        raise UntrustedBundle("the model's signature is of another type", why=envelope.payload_type[:200])
    return _decode64(envelope.payload)


def _decode64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UntrustedBundle("the model's signature is damaged", why=f"base64: {error}") from error


def _load_key(pem: bytes) -> PublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidInput("the signer's key is not a public key in PEM", why=str(error)[:200]) from error
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_HASHES:
        return key
    raise InvalidInput("the signer's key is of a kind that is not accepted", why="Ed25519, P-256, P-384 and P-521 are")


def _is_valid(key: PublicKey, envelope: _Envelope, payload: bytes) -> bool:
    message = pre_authentication_encoding(envelope.payload_type, payload)
    raw = _decode64(envelope.signatures[0].sig)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(raw, message)
        else:
            key.verify(raw, message, ec.ECDSA(_CURVE_HASHES[key.curve.name]()))
    except InvalidSignature:
        return False
    return True
