"""The proof of the key before: what it holds good for, and each way in which it does not."""

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from dsops import dsse, strictjson
from dsops.errors import EnrolmentRefused
from dsops.renewal import PAYLOAD_TYPE, RenewalProof, check_proof, prove

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CSR = b"a signing request"
KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key()


def test_a_proof_by_the_key_before_holds_good() -> None:
    proof = check_proof(prove("dev-1", CSR, KEY, NOW), "dev-1", CSR, PUBLIC)
    assert (proof.device, proof.issued) == ("dev-1", NOW)


def signed(payload: bytes, kind: str = PAYLOAD_TYPE) -> bytes:
    return dsse.sign(kind, payload, KEY).encode()


GOOD = RenewalProof(device="dev-1", csr_sha256="0" * 64, issued=NOW)
OTHER = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (prove("dev-1", CSR, OTHER, NOW), "not signed by trusted keys"),
        (prove("dev-2", CSR, KEY, NOW), "it is about dev-2, not dev-1"),
        (prove("dev-1", b"another request", KEY, NOW), "another signing request"),
        (signed(strictjson.dumps(GOOD.model_dump(mode="json")), "application/other"), "another type"),
        (signed(b'{"device": "dev-1", "device": "dev-1"}'), "not strict JSON"),
        (signed(b'{"device": "dev-1"}'), "csr_sha256"),
        (b"\xff", "strict JSON"),
        (b"", "strict JSON"),
    ],
)
def test_every_other_one_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(EnrolmentRefused, match=why):
        check_proof(data, "dev-1", CSR, PUBLIC)
