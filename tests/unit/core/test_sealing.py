"""Sealed blobs open with their own key only, whole and unchanged; keys open on one device, for one bundle."""

import base64
import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sealed_bundles import PAYLOAD, PLAIN, RECORD, SECRET, Change, sealed_manifest, write_sealed
from test_bundle_format import manifest

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.directive import DesiredSlot
from dsops.errors import ContentSealed, DigestMismatch, InvalidInput, MalformedBundle
from dsops.manifest import Manifest
from dsops.sealing import (
    WRAPPED_BYTES,
    ContentKey,
    Identity,
    content_key,
    new_secret,
    read_blob,
    seal,
    unwrap,
    wrap,
)

STORED = RECORD + 16
DIGEST = hashlib.sha256(b"bundle").hexdigest()
ME = Identity("digits", 1, "int8")


def info_of(bundle: str, device: str) -> bytes:
    return b"dsops/wrapped-key/1\0" + json.dumps({"bundle": bundle, "device": device}, separators=(",", ":")).encode()


def key_of(bundle: Bundle, secret: bytes = SECRET) -> ContentKey:
    return content_key(secret, bundle.manifest)


def test_a_sealed_blob_opens_with_its_key_and_the_others_need_none(tmp_path: Path) -> None:
    bundle = write_sealed(tmp_path)
    bundle.verify()
    for name, data in PLAIN.items():
        assert read_blob(bundle, name, key_of(bundle)) == data
    assert read_blob(bundle, "profile.json", None) == PLAIN["profile.json"]
    stored = bundle.path.read_bytes()
    assert PAYLOAD[:64] not in stored
    assert b"gold" not in stored.partition(b"}profile")[2]
    assert bundle.manifest.format == 2
    assert Manifest.decode(bundle.manifest.encode()) == bundle.manifest


def test_a_bundle_that_is_not_sealed_is_written_as_before(tmp_path: Path) -> None:
    text = json.loads(manifest().encode())
    assert text["format"] == 1
    assert "sealed" not in text


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3 * RECORD + 1), st.sampled_from([RECORD, RECORD + 1, 3 * RECORD]))
def test_any_length_of_payload_and_record_survives(
    tmp_path_factory: pytest.TempPathFactory, size: int, most: int
) -> None:
    plain = PLAIN | {"model.tflite": PAYLOAD[:size].ljust(size, b"x")}
    sealed, ciphertexts = seal(SECRET, ME, {"model.tflite": plain["model.tflite"]}, most)
    assert len(ciphertexts["model.tflite"]) == sealed.stored_bytes(sealed.blobs[0]) == size + 16 * -(-size // most)
    bundle = write_sealed(tmp_path_factory.mktemp("sealed"), plain=plain, names=("model.tflite",))
    assert read_blob(bundle, "model.tflite", key_of(bundle)) == plain["model.tflite"]


def flip(position: int) -> Change:
    def change(data: bytes) -> bytes:
        damaged = bytearray(data)
        damaged[position] ^= 1
        return bytes(damaged)

    return change


def records(data: bytes) -> list[bytes]:
    return [data[start : start + STORED] for start in range(0, len(data), STORED)]


def swapped(data: bytes) -> bytes:
    first, second, *rest = records(data)
    return b"".join([second, first, *rest])


def doubled(data: bytes) -> bytes:
    first, _, *rest = records(data)
    return b"".join([first, first, *rest])


SIGNED_WRONG = {
    "first record": flip(0),
    "its tag": flip(STORED - 1),
    "second record": flip(STORED + 5),
    "third record": flip(2 * STORED),
    "last record": flip(-20),
    "last tag": flip(-1),
    "swapped records": swapped,
    "a record twice": doubled,
}


@pytest.mark.parametrize("name", SIGNED_WRONG)
def test_signed_ciphertext_that_does_not_fit_its_key_condemns_the_bundle(tmp_path: Path, name: str) -> None:
    bundle = write_sealed(tmp_path, change=SIGNED_WRONG[name])
    bundle.verify()
    with pytest.raises(MalformedBundle, match="cannot be decrypted with its own key"):
        read_blob(bundle, "model.tflite", key_of(bundle))


@pytest.mark.parametrize("position", [0, STORED - 1, STORED, 3 * STORED, -1])
def test_a_file_that_was_damaged_later_is_told_from_it(tmp_path: Path, position: int) -> None:
    bundle = write_sealed(tmp_path)
    data = bytearray(bundle.path.read_bytes())
    stored = bundle.manifest.blob("model.tflite").size_bytes
    start = len(data) - stored - bundle.manifest.blob("profile.json").size_bytes
    data[start + position % stored] ^= 1
    bundle.path.write_bytes(bytes(data))
    with pytest.raises(DigestMismatch):
        read_blob(Bundle.open(bundle.path), "model.tflite", key_of(bundle))


def test_a_file_that_is_cut_while_it_is_open_is_damaged(tmp_path: Path) -> None:
    bundle = write_sealed(tmp_path)
    data = bundle.path.read_bytes()
    for lost in (20, STORED, 2 * STORED + 7):
        bundle.path.write_bytes(data[:-lost])
        with pytest.raises(DigestMismatch):
            read_blob(bundle, "model.tflite", key_of(bundle))


def without_last_record(data: bytes) -> bytes:
    return b"".join(records(data)[:-1])


def test_a_manifest_for_fewer_records_than_were_sealed_opens_nothing(tmp_path: Path) -> None:
    sealed, ciphertexts = seal(SECRET, ME, {"model.tflite": PAYLOAD}, RECORD)
    shorter = without_last_record(ciphertexts["model.tflite"])
    plain = describe_blobs({"model.tflite": PAYLOAD[: 3 * RECORD]})

    blobs = PLAIN | {"model.tflite": shorter}
    for key_id in (sealed.key_id, "0" * 64):
        cut = sealed.model_copy(update={"blobs": plain, "key_id": key_id})
        path = tmp_path / "cut.bundle"
        path.write_bytes(encode_bundle(sealed_manifest(blobs, cut), blobs))
        with pytest.raises(ContentSealed):
            content_key(SECRET, Bundle.open(path).manifest)
    path.write_bytes(encode_bundle(sealed_manifest(blobs, sealed.model_copy(update={"blobs": plain})), blobs))
    held = ContentKey(bytes.fromhex(content_key_of_original(sealed.key_id)))
    with pytest.raises(MalformedBundle):
        read_blob(Bundle.open(path), "model.tflite", held)


def content_key_of_original(key_id: str) -> str:
    context = Reader.context("digits", 1, "int8", RECORD, {"model.tflite": PAYLOAD})
    key = Reader.hkdf(SECRET, b"dsops/content-key/1\0" + context)
    assert Reader.hkdf(key, b"dsops/key-id/1").hex() == key_id
    return key.hex()


def test_a_plaintext_that_the_manifest_does_not_name_condemns_the_bundle(tmp_path: Path) -> None:
    """Whoever has the key and may sign could name another digest; the payload is not used then."""
    bundle = write_sealed(tmp_path, names=("model.tflite",))
    sealed = bundle.manifest.sealed
    assert sealed is not None
    reader = Reader(bundle)
    named = sealed.blobs[0].model_copy(update={"sha256": "0" * 64})
    changed = sealed.model_copy(update={"blobs": (named,)})
    forged = bundle.manifest.model_copy(update={"sealed": changed})
    context = Reader.context_of(forged)
    cipher = AESGCM(Reader.hkdf(reader.key, b"dsops/blob-key/1\0model.tflite"))
    parts = [PAYLOAD[at : at + RECORD] for at in range(0, len(PAYLOAD), RECORD)]
    data = b"".join(
        cipher.encrypt(bytes(7) + n.to_bytes(4, "big") + bytes([n == len(parts) - 1]), part, context)
        for n, part in enumerate(parts)
    )
    blobs = PLAIN | {"model.tflite": data}
    forged = forged.model_copy(update={"blobs": describe_blobs(blobs)})
    bundle.path.write_bytes(encode_bundle(forged, blobs))
    with pytest.raises(MalformedBundle, match="something else than its manifest names"):
        read_blob(Bundle.open(bundle.path), "model.tflite", ContentKey(reader.key))


@pytest.mark.parametrize("key", [None, ContentKey(bytes(32))])
def test_without_its_key_a_blob_stays_sealed(tmp_path: Path, key: ContentKey | None) -> None:
    bundle = write_sealed(tmp_path)
    for name in ("model.tflite", "golden.bin"):
        with pytest.raises(ContentSealed) as caught:
            read_blob(bundle, name, key)
        assert caught.value.code == "bundle.sealed"
        assert caught.value.hint


def test_the_key_of_another_release_or_secret_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    one, two = write_sealed(tmp_path), write_sealed(tmp_path / "two", release=2)
    with pytest.raises(ContentSealed):
        read_blob(two, "model.tflite", key_of(one))
    with pytest.raises(ContentSealed, match="not that of digits 1 int8"):
        key_of(one, new_secret())


def test_equal_inputs_give_equal_bytes_and_one_secret_never_gives_one_key_twice() -> None:
    parts = {"model.tflite": PAYLOAD}
    assert seal(SECRET, ME, parts, RECORD) == seal(SECRET, ME, parts, RECORD)
    other = bytes([PAYLOAD[0] ^ 1]) + PAYLOAD[1:]
    variations = [
        seal(SECRET, ME, parts, RECORD),
        seal(SECRET, ME, {"model.tflite": other}, RECORD),
        seal(SECRET, ME, parts, 2 * RECORD),
        seal(SECRET, ME, {**parts, "golden.bin": b"gold"}, RECORD),
        seal(SECRET, Identity("digits", 2, "int8"), parts, RECORD),
        seal(SECRET, Identity("digits", 1, "float"), parts, RECORD),
        seal(SECRET, Identity("letters", 1, "int8"), parts, RECORD),
        seal(new_secret(), ME, parts, RECORD),
    ]
    assert len({sealed.key_id for sealed, _ in variations}) == len(variations)
    assert len({ciphertexts["model.tflite"][:RECORD] for _, ciphertexts in variations}) == len(variations)


def test_two_blobs_of_one_bundle_have_keys_of_their_own() -> None:
    _, ciphertexts = seal(SECRET, ME, {"model.tflite": PAYLOAD, "golden.bin": PAYLOAD}, RECORD)
    assert ciphertexts["model.tflite"] != ciphertexts["golden.bin"]


def test_a_key_does_not_show() -> None:
    key = ContentKey(SECRET)
    assert SECRET.hex() not in repr(key) + str(key)
    assert repr(SECRET) not in repr(key)
    with pytest.raises(InvalidInput):
        ContentKey(b"short")
    with pytest.raises(InvalidInput):
        seal(b"short", ME, {"model.tflite": PAYLOAD})


def test_a_wrapped_key_opens_on_its_device_for_its_bundle_only() -> None:
    own, key = X25519PrivateKey.generate(), ContentKey(SECRET)
    wrapped = wrap(key, own.public_key(), DIGEST, "cam-1")
    assert unwrap(wrapped, own, DIGEST, "cam-1") == key
    assert len(base64.b64decode(wrapped)) == WRAPPED_BYTES
    assert wrap(key, own.public_key(), DIGEST, "cam-1") != wrapped
    slot = {"path": "digits/1.int8.bundle", "sha256": DIGEST, "length_bytes": 1, "release": 1, "deployment": "d"}
    assert DesiredSlot.model_validate(slot | {"content_key": wrapped}).content_key == wrapped
    assert wrapped not in repr(DesiredSlot.model_validate(slot | {"content_key": wrapped}))
    for wrong in (
        (wrapped, X25519PrivateKey.generate(), DIGEST, "cam-1"),
        (wrapped, own, "0" * 64, "cam-1"),
        (wrapped, own, DIGEST, "cam-2"),
        (wrapped[:-4], own, DIGEST, "cam-1"),
        ("A" * 107 + "=", own, DIGEST, "cam-1"),
        ("", own, DIGEST, "cam-1"),
        ("*" * 108, own, DIGEST, "cam-1"),
    ):
        with pytest.raises(ContentSealed, match="cannot be unwrapped"):
            unwrap(*wrong)


def test_a_wrapped_key_of_another_length_is_refused() -> None:
    own = X25519PrivateKey.generate()
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
    short = suite.encrypt(b"16 bytes of key.", own.public_key(), info_of(DIGEST, "cam-1"))
    with pytest.raises(ContentSealed):
        unwrap(base64.b64encode(short).decode(), own, DIGEST, "cam-1")


@pytest.mark.parametrize("text", ["", "A" * 108, "A" * 106 + "==", "-" * 107 + "=", "A" * 107 + "=\n"])
def test_a_directive_takes_wrapped_keys_only(text: str) -> None:
    with pytest.raises(ValidationError):
        DesiredSlot(path="a/1.b.bundle", sha256=DIGEST, length_bytes=1, release=1, deployment="", content_key=text)


def test_a_manifest_that_seals_wrongly_is_refused(tmp_path: Path) -> None:
    right = write_sealed(tmp_path).manifest
    assert right.sealed is not None
    golden, payload = right.sealed.blobs
    fields = right.model_dump()
    wrong: list[dict[str, object]] = [
        {"format": 1},
        {"sealed": None},
        {"sealed": fields["sealed"] | {"blobs": (golden,)}},
        {"sealed": fields["sealed"] | {"blobs": (payload, golden)}},
        {"sealed": fields["sealed"] | {"blobs": (golden, payload, payload)}},
        {"sealed": fields["sealed"] | {"blobs": (payload, payload.model_copy(update={"name": "profile.json"}))}},
        {"sealed": fields["sealed"] | {"blobs": (golden, payload.model_copy(update={"size_bytes": 5}))}},
        {"sealed": fields["sealed"] | {"blobs": (golden.model_copy(update={"size_bytes": 0}), payload)}},
        {"sealed": fields["sealed"] | {"record_bytes": 1024}},
        {"sealed": fields["sealed"] | {"record_bytes": 2 * RECORD}},
        {"sealed": fields["sealed"] | {"scheme": "rot13"}},
        {"sealed": fields["sealed"] | {"key_id": "x"}},
        {"sealed": fields["sealed"] | {"key": "00"}},
    ]
    for change in wrong:
        with pytest.raises(ValidationError):
            Manifest.model_validate(fields | change)


def test_the_containers_number_is_that_of_its_manifest(tmp_path: Path) -> None:
    bundle = write_sealed(tmp_path)
    data = bytearray(bundle.path.read_bytes())
    data[8] = 1
    bundle.path.write_bytes(bytes(data))
    with pytest.raises(MalformedBundle, match="format 2"):
        Bundle.open(bundle.path)


class Reader:
    """Another reader, written after docs/bundle-format.md alone; nothing of dsops but the parsed manifest."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        context = self.context_of(bundle.manifest)
        self.key = self.hkdf(SECRET, b"dsops/content-key/1\0" + context)

    @staticmethod
    def hkdf(key: bytes, info: bytes, salt: bytes = bytes(32), length: int = 32) -> bytes:
        return Reader.expand(hmac.digest(salt, key, "sha256"), info, length)

    @staticmethod
    def expand(prk: bytes, info: bytes, length: int) -> bytes:
        block, out = b"", b""
        for number in range(1, -(-length // 32) + 1):
            block = hmac.digest(prk, block + info + bytes([number]), "sha256")
            out += block
        return out[:length]

    @staticmethod
    def context(model: str, release: int, variant: str, record: int, parts: dict[str, bytes]) -> bytes:
        blobs = [
            {"name": name, "sha256": hashlib.sha256(parts[name]).hexdigest(), "size_bytes": len(parts[name])}
            for name in sorted(parts)
        ]
        return Reader.text(model, release, variant, record, blobs)

    @staticmethod
    def context_of(manifest: Manifest) -> bytes:
        told = json.loads(manifest.encode())
        sealed = told["sealed"]
        return Reader.text(told["model"], told["release"], told["variant"], sealed["record_bytes"], sealed["blobs"])

    @staticmethod
    def text(model: str, release: int, variant: str, record: int, blobs: list[dict[str, object]]) -> bytes:
        value = {
            "blobs": blobs, "model": model, "record_bytes": record, "release": release,
            "scheme": "aes-256-gcm-records", "variant": variant,
        }  # fmt: skip
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def read(self, name: str) -> bytes:
        manifest = self.bundle.manifest
        assert manifest.sealed is not None
        assert self.hkdf(self.key, b"dsops/key-id/1").hex() == manifest.sealed.key_id
        cipher = AESGCM(self.hkdf(self.key, b"dsops/blob-key/1\0" + name.encode()))
        parts = records(self.bundle.read(name))
        return b"".join(
            cipher.decrypt(
                bytes(7) + number.to_bytes(4, "big") + bytes([number == len(parts) - 1]),
                part,
                self.context_of(manifest),
            )
            for number, part in enumerate(parts)
        )

    @staticmethod
    def unwrap(wrapped: str, own: X25519PrivateKey, info: bytes) -> bytes:
        """RFC 9180 sections 4.1, 5.1 and 5.2, base mode, KEM 0x0020, KDF 0x0001, AEAD 0x0001."""
        data = base64.b64decode(wrapped)
        enc, sealed = data[:32], data[32:]
        raw = own.public_key().public_bytes_raw()
        shared = own.exchange(X25519PublicKey.from_public_bytes(enc))
        kem, suite = b"KEM\0\x20", b"HPKE\0\x20\0\x01\0\x01"

        def extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
            return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")

        def expand(suite: bytes, prk: bytes, label: bytes, text: bytes, length: int) -> bytes:
            return Reader.expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + text, length)

        prk = extract(kem, b"", b"eae_prk", shared)
        secret = expand(kem, prk, b"shared_secret", enc + raw, 32)
        context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
        prk = extract(suite, secret, b"secret", b"")
        key = expand(suite, prk, b"key", context, 16)
        return AESGCM(key).decrypt(expand(suite, prk, b"base_nonce", context, 12), sealed, b"")


def test_another_reader_that_follows_the_page_opens_what_was_sealed(tmp_path: Path) -> None:
    bundle = write_sealed(tmp_path)
    reader = Reader(bundle)
    assert {name: reader.read(name) for name in ("model.tflite", "golden.bin")} == {
        name: PLAIN[name] for name in ("model.tflite", "golden.bin")
    }
    own = X25519PrivateKey.generate()
    wrapped = wrap(ContentKey(reader.key), own.public_key(), DIGEST, "cam-1")
    info = info_of(DIGEST, "cam-1")
    assert Reader.unwrap(wrapped, own, info) == reader.key
    with pytest.raises(InvalidTag):
        Reader.unwrap(wrapped, own, info + b" ")
