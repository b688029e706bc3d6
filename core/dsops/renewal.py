"""The proof by which a device whose certificate has ended asks for the next one: signed by the key that it had.

A DSSE envelope over the device's name and the digest of the new signing request. A proof that is stolen and sent again
is worth nothing: all it can bring is a certificate for the key in that very request, which its sender does not have.
"""

from datetime import datetime

from pydantic import AwareDatetime, Field, ValidationError

from dsops import dsse, strictjson
from dsops.bundle import sha256_hex
from dsops.errors import EnrolmentRefused, UntrustedBundle
from dsops.manifest import Frozen, Sha256, first_problem

PAYLOAD_TYPE = "application/vnd.dsops.renewal.v1+json"


class RenewalProof(Frozen):
    """What the old key signs.

    Attributes:
        device: Who asks.
        csr_sha256: SHA-256 of the signing request (DER) that the proof goes with.
        issued: The device's own time, which nobody relies on: a device that was away may not know it.
    """

    device: str = Field(min_length=1, max_length=64)
    csr_sha256: Sha256
    issued: AwareDatetime

    def sign(self, key: dsse.PrivateKey) -> bytes:
        """Return the signed envelope's bytes."""
        payload = strictjson.dumps(self.model_dump(mode="json"))
        return dsse.sign(PAYLOAD_TYPE, payload, key).encode()


def prove(device: str, csr_der: bytes, key: dsse.PrivateKey, now: datetime) -> bytes:
    """Return the proof, by the key before, that goes with a signing request for the key after it."""
    return RenewalProof(device=device, csr_sha256=sha256_hex(csr_der), issued=now).sign(key)


def check_proof(data: bytes, device: str, csr_der: bytes, key: dsse.PublicKey) -> RenewalProof:
    """Return the proof in ``data`` if ``key`` signed it for this device and this signing request.

    Raises:
        EnrolmentRefused: It did not, or ``data`` is no such proof.
    """
    try:
        proof = _decode(dsse.verify(data, PAYLOAD_TYPE, {dsse.key_id(key): key}))
    except UntrustedBundle as error:
        raise _refused(str(error)) from error
    if proof.device != device:
        raise _refused(f"it is about {proof.device}, not {device}")
    if proof.csr_sha256 != sha256_hex(csr_der):
        raise _refused("it is about another signing request")
    return proof


def _decode(payload: bytes) -> RenewalProof:
    try:
        return RenewalProof.model_validate(strictjson.loads(payload))
    except strictjson.JsonRefused as error:
        raise _refused(f"it is not strict JSON: {error}") from error
    except ValidationError as error:
        raise _refused(first_problem(error)) from error


def _refused(why: str) -> EnrolmentRefused:
    return EnrolmentRefused("the proof of the key before is not accepted", why=why)
