"""The trust rules on top of TUF: which release a device may run. Pure; takes verified metadata and facts, no I/O.

TUF (The Update Framework specification 1.0.33) proves which bytes the owners of a model approved. A directive says
which of them one device shall run. The policy, signed offline, bounds what a directive may choose: a floor below which
no release is accepted, and for each release the fraction of devices that may have it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import Field, ValidationError

from dsops import dsse, strictjson
from dsops.directive import DesiredSlot
from dsops.errors import IncompatibleBundle, UntrustedBundle
from dsops.manifest import Frozen, Name, Sha256, first_problem

T = TypeVar("T", bound=Frozen)

DIRECTOR_PATH = "fleet/director.json"
"""TUF target that names the director's keys."""


def policy_path(model: str) -> str:
    """Return the TUF target that holds a model's policy."""
    return f"policy/{model}.json"


def model_role(model: str) -> str:
    """Return the TUF role that signs a model's bundles."""
    return f"model-{model}"


class Director(Frozen):
    """The keys whose directives a fleet's devices believe."""

    fleet: str = Field(max_length=64)
    threshold: int = Field(default=1, ge=1)
    keys: tuple[str, ...] = Field(min_length=1, max_length=8)
    """PEM public keys."""

    def keyring(self) -> dict[str, dsse.PublicKey]:
        """Return the keys by key id."""
        loaded = [dsse.load_public_key(pem) for pem in self.keys]
        return {dsse.key_id(key): key for key in loaded}

    @classmethod
    def decode(cls, data: bytes) -> "Director":
        """Parse the target's bytes.

        Raises:
            UntrustedBundle: They are not valid.
        """
        return _decode(cls, data, "the director's key list")


class Ring(Frozen):
    """How far one release may spread: to ``canary`` devices, and to the ``fraction`` that ``salt`` draws."""

    fraction: float = Field(default=1.0, ge=0, le=1)
    salt: str = Field(default="", max_length=64)
    canary: tuple[str, ...] = ()

    def admits(self, device: str) -> bool:
        """Return whether a device is inside the ring."""
        if device in self.canary:
            return True
        draw = int.from_bytes(hashlib.sha256(f"{self.salt}|{device}".encode()).digest()[:8], "big")
        return draw < self.fraction * 2**64


class Policy(Frozen):
    """What the release managers allow for one model."""

    model: Name
    floor: int = Field(default=1, ge=1)
    default_ring: Ring | None = Ring()
    """Ring of a release that ``rings`` does not name; None refuses such a release."""
    rings: dict[str, Ring] = Field(default={})
    """Ring by release number (as text)."""

    @classmethod
    def decode(cls, data: bytes) -> "Policy":
        """Parse the target's bytes.

        Raises:
            UntrustedBundle: They are not valid.
        """
        return _decode(cls, data, "the policy")


class TargetFacts(Frozen):
    """The ``custom`` field of a bundle's TUF target, signed by the model's owners."""

    model: Name
    release: int = Field(ge=1)
    variant: str
    hardware: tuple[str, ...] = ()
    index: Sha256
    """Digest of the chunk index."""


@dataclass(frozen=True)
class SignedTarget:
    """What verified TUF metadata says of one target."""

    path: str
    sha256: str
    length_bytes: int
    custom: Mapping[str, object]


@dataclass(frozen=True)
class Approved:
    """A bundle that this device may install."""

    model: str
    release: int
    path: str
    sha256: str
    length_bytes: int
    index: str
    deployment: str


def approve(
    model: str, wanted: DesiredSlot, target: SignedTarget | None, policy: Policy, *, device: str, hardware: str
) -> Approved:
    """Return what may be installed, or refuse.

    Args:
        model: The slot's model.
        wanted: What the directive asks for.
        target: What the model's owners signed under that name; None when they signed nothing.
        policy: The model's policy.
        device: This device.
        hardware: This device's class of hardware, for example ``aarch64``.

    Raises:
        UntrustedBundle: The owners or the policy do not allow it.
        IncompatibleBundle: It is for other hardware.
    """
    if target is None:
        raise UntrustedBundle(f"{wanted.path} is not signed", why=f"the owners of {model} approved no such bundle")
    if (target.sha256, target.length_bytes) != (wanted.sha256, wanted.length_bytes):
        raise UntrustedBundle(f"{wanted.path} is not what its owners signed", why="digest or length differ")
    facts = _facts(target)
    if (facts.model, facts.release, policy.model) != (model, wanted.release, model):
        raise UntrustedBundle(f"{wanted.path} belongs to another slot", why=f"{facts.model} {facts.release}")
    if facts.release < policy.floor:
        raise UntrustedBundle(f"release {facts.release} of {model} is too old", why=f"the floor is {policy.floor}")
    ring = policy.rings.get(str(facts.release), policy.default_ring)
    if ring is None or not ring.admits(device):
        raise UntrustedBundle(f"release {facts.release} of {model} is not for {device}", why="outside its signed ring")
    if facts.hardware and hardware not in facts.hardware:
        raise IncompatibleBundle(f"{wanted.path} is for {', '.join(facts.hardware)}", why=f"this is {hardware}")
    return Approved(
        model, facts.release, target.path, target.sha256, target.length_bytes, facts.index, wanted.deployment
    )


def _facts(target: SignedTarget) -> TargetFacts:
    try:
        return TargetFacts.model_validate(dict(target.custom))
    except ValidationError as error:
        raise UntrustedBundle(f"{target.path} carries no valid facts", why=first_problem(error)) from error


def _decode(cls: type[T], data: bytes, name: str) -> T:
    try:
        return cls.model_validate(strictjson.loads(data))
    except strictjson.JsonRefused as error:
        raise UntrustedBundle(f"{name} is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise UntrustedBundle(f"{name} is not valid", why=first_problem(error)) from error
