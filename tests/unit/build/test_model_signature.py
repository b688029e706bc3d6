"""Signatures that the OpenSSF program made (model-signing 1.1.1, ``model_signing sign key``) over a file or folder."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dsops.dsse import PublicKey, pre_authentication_encoding, public_pem
from dsops.errors import InvalidInput, UntrustedBundle
from dsops_controller.build.model_signature import PAYLOAD_TYPE, signed_files, verify_model_signature

GIVEN = Path(__file__).parent / "model_signatures"
MODEL = (GIVEN / "model.onnx").read_bytes()
FILE_SIGNATURE = (GIVEN / "p256-file.sigstore.json").read_bytes()
OWNER = (GIVEN / "p256.pub").read_bytes()

Edit = Callable[[dict[str, Any]], object]


def statement_of(digest: str, name: str = "model.onnx") -> dict[str, Any]:
    root = hashlib.sha256(bytes.fromhex(digest)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"resources": [{"name": name, "algorithm": "sha256", "digest": digest}]},
    }


def signed(key: ed25519.Ed25519PrivateKey, statement: dict[str, Any]) -> bytes:
    payload = json.dumps(statement).encode()
    signature = key.sign(pre_authentication_encoding(PAYLOAD_TYPE, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    return json.dumps({"verificationMaterial": {"publicKey": {"hint": ""}}, "dsseEnvelope": envelope}).encode()


def pem(key: PublicKey) -> bytes:
    return public_pem(key).encode()


@pytest.mark.parametrize("form", ["p256-file", "p256-folder", "p384-folder"])
def test_what_the_reference_program_signed_is_accepted(form: str) -> None:
    signature = (GIVEN / f"{form}.sigstore.json").read_bytes()
    owner = (GIVEN / f"{form.partition('-')[0]}.pub").read_bytes()
    identity = verify_model_signature(signature, owner, {"model.onnx": MODEL})
    assert identity.startswith("key sha256:")
    with pytest.raises(UntrustedBundle, match=r"model\.onnx is not what"):
        verify_model_signature(signature, owner, {"model.onnx": MODEL + b"\0"})


def test_a_file_that_the_signature_does_not_name_is_refused() -> None:
    signature = (GIVEN / "p256-folder.sigstore.json").read_bytes()
    assert {entry.name for entry in signed_files(signature)} == {"README.md", "weights/model.onnx"}
    with pytest.raises(UntrustedBundle, match="other"):
        verify_model_signature(signature, OWNER, {"other.onnx": MODEL})


def test_another_key_is_refused() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    for key in ((GIVEN / "p384.pub").read_bytes(), pem(stranger)):
        with pytest.raises(UntrustedBundle, match="not of this key"):
            verify_model_signature(FILE_SIGNATURE, key, {"model.onnx": MODEL})


def test_an_ed25519_key_can_sign_too() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    signature = signed(key, statement_of(hashlib.sha256(MODEL).hexdigest()))
    assert verify_model_signature(signature, pem(key.public_key()), {"model.onnx": MODEL})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "another type"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "another type"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "contradicts itself"),
        (lambda s: s["predicate"].update(resources=[]), "OpenSSF form"),
        (lambda s: s["predicate"]["resources"][0].update(digest="xy"), "OpenSSF form"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="md5"), "is not what"),
    ],
)
def test_a_signed_statement_of_another_kind_is_refused(edit: Edit, says: str) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    statement = statement_of(hashlib.sha256(MODEL).hexdigest())
    edit(statement)
    with pytest.raises(UntrustedBundle, match=says):
        verify_model_signature(signed(key, statement), pem(key.public_key()), {"model.onnx": MODEL})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda b: b["verificationMaterial"].pop("publicKey"), "not made with a key"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "another type"),
        (lambda b: b["dsseEnvelope"].update(payload="@@"), "damaged"),
        (lambda b: b["dsseEnvelope"].update(payload="é"), "damaged"),
        (lambda b: b["dsseEnvelope"].update(signatures=[]), "OpenSSF form"),
        (lambda b: b["dsseEnvelope"].update(payload=base64.b64encode(b"{}").decode()), "not of this key"),
        (lambda b: b.pop("dsseEnvelope"), "OpenSSF form"),
    ],
)
def test_a_damaged_signature_is_refused(edit: Edit, says: str) -> None:
    bundle = json.loads(FILE_SIGNATURE)
    edit(bundle)
    with pytest.raises(UntrustedBundle, match=says):
        verify_model_signature(json.dumps(bundle).encode(), OWNER, {"model.onnx": MODEL})


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{" * 999, b'{"a":1,"a":1}', b" " * (5 << 20)])
def test_what_is_no_signature_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedBundle):
        verify_model_signature(data, OWNER, {"model.onnx": MODEL})


def test_keys_of_other_kinds_are_refused() -> None:
    weak = rsa.generate_private_key(65537, 2048).public_key()
    other_curve = ec.generate_private_key(ec.SECP256K1()).public_key()
    written = [key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for key in (weak, other_curve)]
    for key in (*written, b"", b"-----BEGIN PUBLIC KEY-----\n"):
        with pytest.raises(InvalidInput, match="signer's key"):
            verify_model_signature(FILE_SIGNATURE, key, {"model.onnx": MODEL})
