"""What a device says when it asks to join, and the check of its form. Pure: nothing is looked up here."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from dsops.errors import InvalidInput
from dsops.ids import DeviceId, device_id
from dsops.manifest import first_problem
from dsops.messages import Inventory
from dsops.sealing import recipient_key
from dsops.signing_request import names_content_key
from dsops_controller.fleet.issuer import key_sha256, key_text, requested_key

_MAX_TOKEN_LENGTH = 256
_MAX_FACT_LENGTH = 200
_MAX_ORIGIN_LENGTH = 64


@dataclass(frozen=True)
class Application:
    """What a device says; nothing of it is believed yet. See ``EnrolRequest``.

    ``origin`` is the address that the request came from.
    """

    device: str
    csr_der: bytes
    token: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    proof: bytes = b""
    content_public_key: bytes = b""
    origin: str = ""


@dataclass(frozen=True)
class Request:
    """An application whose form is right; ``token_sha256`` is empty for a stranger, who shows no token."""

    device: DeviceId
    token_sha256: str
    csr_der: bytes
    public_key: str
    inventory: Inventory
    proof: bytes
    content_public_key: bytes | None
    origin: str

    @property
    def is_stranger(self) -> bool:
        """Whether no token was shown."""
        return not self.token_sha256

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the key."""
        return key_sha256(self.public_key)


def check(application: Application) -> Request:
    """Return the application as a request.

    Raises:
        InvalidInput: Name, token, signing request, facts or content key are malformed.
    """
    name = device_id(application.device)
    if len(application.token) > _MAX_TOKEN_LENGTH:
        raise InvalidInput("this is not a token", why=f"{len(application.token)} characters")
    content_key = application.content_public_key or None
    public_key = key_text(requested_key(application.csr_der))
    if content_key is not None:
        recipient_key(content_key)
        if not names_content_key(application.csr_der, content_key):
            raise InvalidInput("the signing request does not name the content key", hint="update the device's agent")
    return Request(
        device=name,
        token_sha256=token_sha256(application.token) if application.token else "",
        csr_der=application.csr_der,
        public_key=public_key,
        inventory=_inventory(application.facts),
        proof=application.proof,
        content_public_key=content_key,
        origin=application.origin[:_MAX_ORIGIN_LENGTH],
    )


def token_sha256(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _inventory(facts: Mapping[str, str]) -> Inventory:
    known = {name: facts[name][:_MAX_FACT_LENGTH] for name in Inventory.model_fields if name in facts}
    try:
        return Inventory.model_validate(known)
    except ValidationError as error:
        raise InvalidInput("the device's facts are not valid", why=first_problem(error)) from error
