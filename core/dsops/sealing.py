"""Sealed blobs: parts of a bundle that only devices with its content key can read.

The payload, and the golden inputs with it, are encrypted once a bundle, in records that are verified one by one, so
that neither side holds more than one record twice. The bundle stays the same file for everybody, may be cached and
resumed, and its signed digest covers the ciphertext. What is made for each device is small: the content key, wrapped.

    secret       32 random bytes of the person who builds; may seal any number of bundles
    content key  HKDF(secret, "dsops/content-key/1" 0 context); 32 bytes, one a bundle
    key id       HKDF(content key, "dsops/key-id/1"); in the manifest, so that a wrong key is told from a damaged file
    blob key     HKDF(content key, "dsops/blob-key/1" 0 name); AES-256-GCM

The *context* is all that decides which bytes stand under which nonce: scheme, length of a record, model, release,
variant, and name, length and digest of each blob before it was encrypted. So one key never encrypts two texts, even if
somebody seals everything with one secret, and equal inputs give equal bytes. The context is also each record's
associated data.

Records follow STREAM (Hoang, Reyhanitabar, Rogaway, Vizar: Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance, CRYPTO 2015, section 7; RFC 8188 does alike): the nonce counts the records and marks the last one, so
that none can be left out, moved, repeated or added. HKDF is RFC 5869 with SHA-256 and no salt. Content keys are wrapped
with HPKE (RFC 9180, base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM).
"""

import base64
import binascii
import hashlib
import io
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dsops import strictjson
from dsops.bundle import Bundle, describe_blobs
from dsops.errors import ContentSealed, InvalidInput, MalformedBundle
from dsops.manifest import TAG_BYTES, Blob, Manifest, Sealed

KEY_BYTES = 32
RECORD_BYTES = 1 << 20
WRAPPED_BYTES = 32 + KEY_BYTES + TAG_BYTES
"""An ephemeral X25519 key, the ciphertext, its tag."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)


@dataclass(frozen=True)
class ContentKey:
    """The key of one sealed bundle. It does not show in texts, so that no log ever holds it.

    Raises:
        InvalidInput: It has another length.
    """

    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check the length."""
        if len(self.data) != KEY_BYTES:
            raise InvalidInput(f"a content key has {KEY_BYTES} bytes", why=f"this one has {len(self.data)}")

    @property
    def key_id(self) -> str:
        """What the manifest of its bundle names."""
        return _hkdf(self.data, b"dsops/key-id/1").hex()

    def check(self, manifest: Manifest) -> None:
        """Check that this is the key of a sealed bundle.

        Raises:
            ContentSealed: It is another bundle's.
        """
        if manifest.sealed is None or manifest.sealed.key_id != self.key_id:
            raise ContentSealed(f"the content key is not that of {_title(manifest)}")


@dataclass(frozen=True)
class Identity:
    """Which bundle something is sealed for."""

    model: str
    release: int
    variant: str


def new_secret() -> bytes:
    """Return a fresh secret to seal bundles with."""
    return secrets.token_bytes(KEY_BYTES)


def seal(
    secret: bytes, identity: Identity, blobs: Mapping[str, bytes], record_bytes: int = RECORD_BYTES
) -> tuple[Sealed, dict[str, bytes]]:
    """Encrypt blobs of one bundle; the same arguments give the same bytes.

    Args:
        secret: See :func:`new_secret`.
        identity: The bundle.
        blobs: What to encrypt, by name; none is empty.
        record_bytes: Length of a record before it is encrypted.

    Returns:
        The part of the manifest that says so, and the ciphertexts.

    Raises:
        InvalidInput: The secret has another length.
    """
    plain = describe_blobs(blobs)
    context = _context(identity, record_bytes, plain)
    key = _derive(secret, context)
    sealed = Sealed(record_bytes=record_bytes, key_id=key.key_id, blobs=plain)
    return sealed, {name: _encrypt(key, context, name, blobs[name], record_bytes) for name in blobs}


def content_key(secret: bytes, manifest: Manifest) -> ContentKey:
    """Return the content key of a bundle that was sealed with a secret.

    Raises:
        ContentSealed: It was sealed with another one, or not at all.
        InvalidInput: The secret has another length.
    """
    if manifest.sealed is None:
        raise ContentSealed(f"{_title(manifest)} is not sealed", hint="leave the content key out")
    key = _derive(secret, _context_of(manifest, manifest.sealed))
    key.check(manifest)
    return key


def read_blob(bundle: Bundle, name: str, key: ContentKey | None) -> bytes:
    """Return one blob, checked, and decrypted if it is sealed. Besides the result, one record is in memory.

    Args:
        bundle: The bundle.
        name: The blob.
        key: The bundle's content key; a blob that is not sealed needs none.

    Raises:
        ContentSealed: The blob is sealed, and there is no key or another bundle's.
        DigestMismatch: The file is damaged.
        MalformedBundle: There is no such blob; or the file is what was signed, and yet cannot be opened with its key.
    """
    manifest = bundle.manifest
    sealed = manifest.sealed
    plain = next((blob for blob in sealed.blobs if blob.name == name), None) if sealed else None
    if sealed is None or plain is None:
        return bundle.read(name)
    if key is None:
        raise ContentSealed(f"{name} of {_title(manifest)} is encrypted", why="there is no content key")
    key.check(manifest)
    try:
        data = _decrypt(key, _context_of(manifest, sealed), plain, sealed.record_bytes, bundle)
    except (InvalidTag, ValueError) as error:
        for _ in bundle.pieces(name):  # a damaged file is told from one that was made wrong
            continue
        raise MalformedBundle(f"{name} of {_title(manifest)} cannot be decrypted with its own key") from error
    if hashlib.sha256(data).hexdigest() != plain.sha256:
        raise MalformedBundle(f"{name} of {_title(manifest)} holds something else than its manifest names")
    return data


def recipient_key(data: bytes) -> X25519PublicKey:
    """Return the key that a device wants content keys wrapped to.

    Raises:
        InvalidInput: It is no X25519 key, or one of the few with which nothing stays secret (RFC 7748 section 6.1).
    """
    try:
        key = X25519PublicKey.from_public_bytes(data)
        X25519PrivateKey.generate().exchange(key)
    except ValueError as error:
        raise InvalidInput("this is not a key to wrap content keys to", why=str(error)) from error
    return key


def wrap(key: ContentKey, recipient: X25519PublicKey, bundle_sha256: str, device: str) -> str:
    """Return a content key that only one device can unwrap, and only for one bundle; base64."""
    return base64.b64encode(_SUITE.encrypt(key.data, recipient, _info(bundle_sha256, device))).decode()


def unwrap(wrapped: str, own: X25519PrivateKey, bundle_sha256: str, device: str) -> ContentKey:
    """Return the content key that was wrapped for this device and this bundle.

    Raises:
        ContentSealed: It was wrapped for another device, key or bundle, or is damaged.
    """
    try:
        data = _SUITE.decrypt(base64.b64decode(wrapped, validate=True), own, _info(bundle_sha256, device))
        return ContentKey(data)
    except (InvalidTag, binascii.Error, ValueError, InvalidInput) as error:
        raise ContentSealed(
            f"the content key of bundle {bundle_sha256[:12]} cannot be unwrapped",
            why="it was wrapped for another device, another key or another bundle",
        ) from error


def _title(manifest: Manifest) -> str:
    return f"{manifest.model} {manifest.release} {manifest.variant}"


def _info(bundle_sha256: str, device: str) -> bytes:
    named = strictjson.dumps({"bundle": bundle_sha256, "device": device})
    return b"dsops/wrapped-key/1\0" + named


def _context_of(manifest: Manifest, sealed: Sealed) -> bytes:
    identity = Identity(manifest.model, manifest.release, manifest.variant)
    return _context(identity, sealed.record_bytes, sealed.blobs)


def _context(identity: Identity, record_bytes: int, plain: tuple[Blob, ...]) -> bytes:
    return strictjson.dumps(
        {
            "blobs": [blob.model_dump(mode="json") for blob in plain],
            "model": identity.model,
            "record_bytes": record_bytes,
            "release": identity.release,
            "scheme": Sealed.model_fields["scheme"].default,
            "variant": identity.variant,
        }
    )


def _derive(secret: bytes, context: bytes) -> ContentKey:
    if len(secret) != KEY_BYTES:
        raise InvalidInput(f"a secret has {KEY_BYTES} bytes", why=f"this one has {len(secret)}")
    return ContentKey(_hkdf(secret, b"dsops/content-key/1\0" + context))


def _hkdf(key: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, None, info).derive(key)


def _cipher(key: ContentKey, name: str) -> AESGCM:
    return AESGCM(_hkdf(key.data, b"dsops/blob-key/1\0" + name.encode()))


def _nonce(number: int, *, is_last: bool) -> bytes:
    return bytes(7) + number.to_bytes(4, "big") + bytes([is_last])


def _encrypt(key: ContentKey, context: bytes, name: str, data: bytes, record_bytes: int) -> bytes:
    cipher = _cipher(key, name)
    view = memoryview(data)
    records = [
        cipher.encrypt(_nonce(number, is_last=is_last), view[start:end], context)
        for number, start, end, is_last in _records(len(data), record_bytes)
    ]
    return b"".join(records)


def _decrypt(key: ContentKey, context: bytes, plain: Blob, record_bytes: int, bundle: Bundle) -> bytes:
    """Decrypt into the memory of the result itself: a buffer hands its bytes over without a copy."""
    cipher = _cipher(key, plain.name)
    buffer = io.BytesIO(bytes(plain.size_bytes))
    pieces = bundle.pieces(plain.name, record_bytes + TAG_BYTES)
    with buffer.getbuffer() as view:
        for (number, start, end, is_last), piece in zip(_records(plain.size_bytes, record_bytes), pieces, strict=False):
            cipher.decrypt_into(_nonce(number, is_last=is_last), piece, context, view[start:end])
        for _ in pieces:  # the digest is checked at the end
            continue
    return buffer.getvalue()


def _records(size_bytes: int, record_bytes: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yield number, start, end and whether it is the last of each record."""
    for number, start in enumerate(range(0, size_bytes, record_bytes)):
        end = min(start + record_bytes, size_bytes)
        yield number, start, end, end == size_bytes
