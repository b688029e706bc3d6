"""Names and identifiers, each its own type, each with one form."""

import re
import secrets
from typing import NewType

from dsops.errors import InvalidInput

DeviceId = NewType("DeviceId", str)
"""A device's name; the CN of its certificate and one level of an MQTT topic."""
ModelName = NewType("ModelName", str)
Digest = NewType("Digest", str)
"""Lower-case hex SHA-256."""
KpiName = NewType("KpiName", str)
RolloutId = NewType("RolloutId", str)
DeploymentId = NewType("DeploymentId", str)

_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MODEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RESERVED_DEVICES = frozenset({"controller", "controller-probe"})


def device_id(text: str) -> DeviceId:
    """Check a device's name.

    Raises:
        InvalidInput: The name is not 1 to 64 characters of ``A-Z a-z 0-9 _ . -``, or is reserved.
    """
    if not _DEVICE.fullmatch(text) or text in _RESERVED_DEVICES:
        raise InvalidInput(
            f"{text!r} is not a device name",
            why="a name has 1 to 64 of A-Z a-z 0-9 _ . -, begins with a letter or digit, and is not the controller's",
            hint="choose another name",
        )
    return DeviceId(text)


def model_name(text: str) -> ModelName:
    """Check a model's name.

    Raises:
        InvalidInput: The name is not 1 to 63 characters of ``a-z 0-9 -``.
    """
    if not _MODEL.fullmatch(text):
        raise InvalidInput(
            f"{text!r} is not a model name",
            why="a name has 1 to 63 of a-z 0-9 - and begins with a letter or digit",
            hint="choose another name",
        )
    return ModelName(text)


def digest(text: str) -> Digest:
    """Check a SHA-256 in lower-case hex.

    Raises:
        InvalidInput: It is not 64 lower-case hex digits.
    """
    if not _DIGEST.fullmatch(text):
        raise InvalidInput(f"{text[:80]!r} is not a SHA-256 digest", why="it needs 64 lower-case hex digits")
    return Digest(text)


def kpi_name(text: str) -> KpiName:
    """Check the name of a figure that a program on a device reports; it has the form of a device's name.

    Raises:
        InvalidInput: The name is not 1 to 64 characters of ``A-Z a-z 0-9 _ . -``.
    """
    if not _DEVICE.fullmatch(text):
        raise InvalidInput(
            f"{text[:80]!r} is not a figure's name",
            why="a name has 1 to 64 of A-Z a-z 0-9 _ . - and begins with a letter or digit",
            hint="choose another name, for example parts_rejected",
        )
    return KpiName(text)


def new_rollout_id() -> RolloutId:
    """Return a fresh rollout id (48 random bits, as ``ro-<hex>``)."""
    return RolloutId(f"ro-{secrets.token_hex(6)}")


def new_deployment_id() -> DeploymentId:
    """Return a fresh deployment id (48 random bits, as ``de-<hex>``)."""
    return DeploymentId(f"de-{secrets.token_hex(6)}")
