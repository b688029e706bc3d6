"""Letting devices in and shutting them out by the command line: what is shown, what is bound, how refusals end."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest
from dsops.api.v1.enrolment_pb2_grpc import EnrolmentStub
from dsops.bundle import sha256_hex

pytestmark = pytest.mark.integration

Dsops = Callable[..., Any]
Ask = Callable[[str, ec.EllipticCurvePrivateKey], EnrolReply]


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    """Return what `openssl pkey -pubout -outform DER | sha256sum` prints."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return sha256_hex(key.public_key().public_bytes(serialization.Encoding.DER, form))


@pytest.fixture
def ask(site: Any) -> Iterator[Ask]:
    """Ask to join, without a token."""
    listening = json.loads((site.server / "server.json").read_text())["enrolment"]
    trust = grpc.ssl_channel_credentials((site.server / "ca" / "ca.crt").read_bytes())
    with grpc.secure_channel(listening, trust) as channel:

        def run(name: str, key: ec.EllipticCurvePrivateKey) -> EnrolReply:
            csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
            asked = EnrolRequest(device=name, csr_der=csr.public_bytes(serialization.Encoding.DER))
            reply: EnrolReply = EnrolmentStub(channel).Enrol(asked, timeout=20)
            return reply

        yield run


def test_a_device_waits_is_looked_at_and_accepted_by_its_key(dsops: Dsops, ask: Ask) -> None:
    key = new_key()
    assert ask("wait-1", key).pending
    shown = dsops("device", "show", "wait-1", "-o", "json").result
    assert (shown["state"], shown["key_sha256"], shown["origin"]) == ("pending", fingerprint(key), "127.0.0.1")
    assert fingerprint(key)[:12] in dsops("device", "list").out
    refused = dsops("device", "accept", "wait-1", "-o", "json")  # nobody is at the terminal
    assert (refused.code, refused.error["code"]) == (2, "request.invalid_input")
    assert "--yes" in refused.error["hint"]
    refused = dsops("device", "accept", "wait-1", "--key", "ab" * 32, "-o", "json")
    assert (refused.error["code"], ask("wait-1", key).pending) == ("request.conflict", True)
    pairs = ":".join(fingerprint(key)[at : at + 2] for at in range(0, 64, 2)).upper()
    accepted = dsops("device", "accept", "wait-1", "--key", pairs)
    assert accepted.code == 0, accepted.err
    assert fingerprint(key) in accepted.err
    assert ask("wait-1", key).certificate_pem
    shown = dsops("device", "show", "wait-1", "-o", "json").result
    assert shown["certificate_ends"].endswith("Z")
    assert shown["serial"]


def test_a_device_is_suspended_accepted_again_and_taken_out(dsops: Dsops, ask: Ask) -> None:
    key = new_key()
    ask("life-1", key)
    assert dsops("device", "accept", "life-1", "--yes").code == 0
    assert dsops("device", "suspend", "life-1").code == 0
    assert dsops("device", "show", "life-1", "-o", "json").result["state"] == "suspended"
    assert dsops("device", "accept", "life-1").code == 0, "its key was accepted before: nothing to confirm"
    assert dsops("device", "decommission", "life-1", "-o", "json").error["code"] == "request.invalid_input"
    gone = dsops("device", "decommission", "life-1", "--yes", "-o", "json")
    assert (gone.code, gone.result["state"]) == (0, "decommissioned")
    for verb, *more in (("accept", "--yes"), ("suspend",), ("token",)):
        refused = dsops("device", verb, "life-1", *more, "-o", "json")
        assert refused.error["code"] == "request.conflict", verb


def test_a_device_is_rejected(dsops: Dsops, ask: Ask) -> None:
    key = new_key()
    ask("bad-1", key)
    assert dsops("device", "reject", "bad-1").code == 0
    with pytest.raises(grpc.RpcError) as caught:
        ask("bad-1", key)
    assert dict(caught.value.trailing_metadata() or ())["dsops-code"] == "enrolment.device_barred"
    assert dsops("device", "token", "bad-1").code == 0  # the right device may have the name


def test_devices_join_by_a_list(dsops: Dsops, ask: Ask, tmp_path: Path) -> None:
    key = new_key()
    batch = tmp_path / "batch.csv"
    batch.write_text(f"\ufeffdevice,key_sha256\r\nlist-1,{fingerprint(key)}\r\nlist-2,{'cd' * 32}\r\n", newline="")
    done = dsops("device", "preauthorize", batch)
    assert (done.code, done.err.strip()) == (0, "2 devices may join by their keys")
    assert ask("list-1", key).certificate_pem
    again = dsops("device", "preauthorize", batch, "-o", "json")
    assert again.error["code"] == "request.conflict"
    assert again.error["why"] == "list-1 is accepted"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"cam-1,xyz\n", "line 1: 'xyz' is not a SHA-256 digest"),
        (b"device,key_sha256\ncam-1\n", "line 2: 1 columns instead of device,key_sha256"),
        (b"", "0 devices, 20000 are allowed"),
        (b"\xff\xfe\x00", "decode"),
    ],
)
def test_a_wrong_list_is_told_by_its_lines(dsops: Dsops, tmp_path: Path, content: bytes, why: str) -> None:
    batch = tmp_path / "batch.csv"
    batch.write_bytes(content)
    refused = dsops("device", "preauthorize", batch, "-o", "json")
    assert (refused.code, refused.error["code"]) == (2, "request.invalid_input")
    assert why in refused.error["why"]


def test_names_that_are_none_reach_no_server(dsops: Dsops, tmp_path: Path) -> None:
    for verb, *more in (("accept", "--yes"), ("reject",), ("suspend",), ("decommission", "--yes")):
        assert dsops("device", verb, "../x", *more, "-o", "json").error["code"] == "request.invalid_input"
        assert dsops("device", verb, "nobody", *more, "-o", "json").error["code"] == "request.not_found"
    assert dsops("device", "preauthorize", tmp_path / "absent.csv").code == 2
