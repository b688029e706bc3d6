"""A device's proof that it holds the key of its certificate before: DSSE over the request that it makes (CSR digest).

A proof is good for one signing request only, so who records it gains nothing but another certificate for the same key.
"""

from collections.abc import Iterable

from pydantic import ValidationError

from dsops import dsse, strictjson
from dsops.bundle import sha256_hex
from dsops.errors import InvalidInput, UntrustedBundle
from dsops.manifest import Frozen, Sha256, first_problem

PROOF_TYPE = "application/vnd.dsops.renewal.v1+json"


class Proof(Frozen):
    """What the old key signs; ``issued`` is for people, the device's clock may be wrong."""

    device: str
    csr_sha256: Sha256
    issued: str


def proving_key(data: bytes, keys: Iterable[str], device: str, csr_der: bytes) -> str | None:
    """Return that of ``keys`` (PEM) which signed a proof for this device and request; None when none did.

    Raises:
        InvalidInput: The signed text is not a proof.
    """
    for text in keys:
        key = dsse.load_public_key(text)
        try:
            payload = dsse.verify(data, PROOF_TYPE, {dsse.key_id(key): key})
        except UntrustedBundle:
            continue
        return text if _fits(payload, device, csr_der) else None
    return None


def _fits(payload: bytes, device: str, csr_der: bytes) -> bool:
    try:
        proof = Proof.model_validate(strictjson.loads(payload))
    except strictjson.JsonRefused as error:
        raise InvalidInput("a renewal's proof is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise InvalidInput("a renewal's proof is not valid", why=first_problem(error)) from error
    return proof.device == device and proof.csr_sha256 == sha256_hex(csr_der)
