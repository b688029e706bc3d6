"""The trust rules on top of TUF: which release a device may run. Pure; takes verified metadata and facts, no I/O.

They come after those of :mod:`dsops.directive`; :data:`RULES` is all of them, in order.

TUF (The Update Framework specification 1.0.33) proves which bytes the owners of a model approved. A directive says
which of them one device shall run. The policy, signed offline, bounds what a directive may choose: a floor below which
no release is accepted, and for each release the fraction of devices that may have it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from pydantic import Field, ValidationError

from dsops import dsse, strictjson
from dsops.directive import DIRECTIVE_RULES, DesiredSlot, Received
from dsops.errors import (
    BelowFloor,
    DifferentTarget,
    ForeignTarget,
    MalformedMetadata,
    MismatchedMetadata,
    OutsideRing,
    UnknownTarget,
    UnlistedRelease,
    WrongHardware,
)
from dsops.manifest import Frozen, Name, Sha256, first_problem
from dsops.rules import Rule, RuleResult, Verdict, enforce, explain_rules

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
            MalformedMetadata: They are not valid.
        """
        return _decode(cls, data, "the director's key list")


class Ring(Frozen):
    """How far one release may spread: to ``canary`` devices, and to the ``fraction`` that ``salt`` draws."""

    fraction: float = Field(default=1.0, ge=0, le=1)
    salt: str = Field(default="", max_length=64)
    canary: tuple[str, ...] = ()

    def admits(self, device: str) -> bool:
        """Return whether a device is inside the ring."""
        return device in self.canary or self.draw(device) < self.fraction * 2**64

    def draw(self, device: str) -> int:
        """Return a device's number, below 2^64: the first eight bytes of SHA-256 over ``salt|device``."""
        return int.from_bytes(hashlib.sha256(f"{self.salt}|{device}".encode()).digest()[:8], "big")


_NOBODY = Ring(fraction=0.0)


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
            MalformedMetadata: They are not valid.
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
    needs: Sha256
    """Digest of what the bundle needs of a device (:class:`dsops.needs.Needs`)."""


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
    needs: str
    deployment: str


@dataclass(frozen=True)
class Question:
    """May a device install this bundle?

    Attributes:
        model: The slot's model.
        wanted: What the directive asks for.
        target: What the model's owners signed under that name; None when they signed nothing.
        policy: The model's policy.
        device: The device.
        hardware: The device's class of hardware, for example ``aarch64``.
    """

    model: str
    wanted: DesiredSlot
    target: SignedTarget | None
    policy: Policy
    device: str
    hardware: str

    @cached_property
    def signed(self) -> SignedTarget:
        """What the owners signed; only asked once rule ``target`` holds."""
        if self.target is None:
            raise UnknownTarget(f"{self.wanted.path} is not signed")
        return self.target

    @cached_property
    def facts(self) -> TargetFacts:
        """What the owners say of the bundle; raises MalformedMetadata."""
        try:
            return TargetFacts.model_validate(dict(self.signed.custom))
        except ValidationError as error:
            raise MalformedMetadata(f"{self.wanted.path} carries no valid facts", why=first_problem(error)) from error

    @property
    def ring(self) -> Ring | None:
        """The ring that the policy gives the release; None if it gives none."""
        return self.policy.rings.get(str(self.facts.release), self.policy.default_ring)


def approve(
    model: str, wanted: DesiredSlot, target: SignedTarget | None, policy: Policy, *, device: str, hardware: str
) -> Approved:
    """Return what may be installed if :data:`SLOT_RULES` allow it.

    Args:
        model: The slot's model.
        wanted: What the directive asks for.
        target: What the model's owners signed under that name; None when they signed nothing.
        policy: The model's policy.
        device: This device.
        hardware: This device's class of hardware, for example ``aarch64``.

    Raises:
        Refusal: The first broken rule's: the owners or the policy do not allow it.
        WrongHardware: It is for other hardware.
    """
    question = Question(model, wanted, target, policy, device, hardware)
    enforce(SLOT_RULES, question, wanted.path)
    signed, facts = question.signed, question.facts
    return Approved(
        model=model,
        release=facts.release,
        path=signed.path,
        sha256=signed.sha256,
        length_bytes=signed.length_bytes,
        index=facts.index,
        needs=facts.needs,
        deployment=wanted.deployment,
    )


def explain(
    model: str, wanted: DesiredSlot, target: SignedTarget | None, policy: Policy, *, device: str, hardware: str
) -> list[RuleResult]:
    """Return what becomes of each rule of :data:`SLOT_RULES`; takes what :func:`approve` takes and raises nothing."""
    return explain_rules(SLOT_RULES, Question(model, wanted, target, policy, device, hardware))


def _is_known(case: Question) -> Verdict:
    known = case.target is not None
    said = "signed" if known else "signed nothing under that name"
    return Verdict(known, f"the owners of {case.model} {said}")


def _same_digest(case: Question) -> Verdict:
    wanted, signed = case.wanted.sha256, case.signed.sha256
    return Verdict(wanted == signed, f"wanted {wanted[:12]}..., signed {signed[:12]}...")


def _same_length(case: Question) -> Verdict:
    wanted, signed = case.wanted.length_bytes, case.signed.length_bytes
    return Verdict(wanted == signed, f"wanted {wanted} bytes, signed {signed} bytes")


def _has_facts(case: Question) -> Verdict:
    try:
        return Verdict(ok=True, text=f"variant {case.facts.variant}")
    except MalformedMetadata as error:
        return Verdict(ok=False, text=error.why)


def _is_of_model(case: Question) -> Verdict:
    return Verdict(case.facts.model == case.model, f"it is of {case.facts.model}, the slot is of {case.model}")


def _is_release(case: Question) -> Verdict:
    wanted, signed = case.wanted.release, case.facts.release
    return Verdict(wanted == signed, f"wanted release {wanted}, signed release {signed}")


def _fits_hardware(case: Question) -> Verdict:
    classes = case.facts.hardware
    wanted = ", ".join(classes) or "any hardware"
    return Verdict(not classes or case.hardware in classes, f"it is for {wanted}, the device is {case.hardware}")


def _policy_is_of_model(case: Question) -> Verdict:
    return Verdict(case.policy.model == case.model, f"it is the policy of {case.policy.model}")


def _above_floor(case: Question) -> Verdict:
    release, floor = case.facts.release, case.policy.floor
    return Verdict(release >= floor, f"release {release}, the floor is {floor}")


def _is_listed(case: Question) -> Verdict:
    release = case.facts.release
    if str(release) in case.policy.rings:
        return Verdict(ok=True, text=f"release {release} is listed")
    said = "others are refused" if case.ring is None else "others have a ring too"
    return Verdict(case.ring is not None, f"release {release} is not listed, {said}")


def _in_ring(case: Question) -> Verdict:
    ring = case.ring or _NOBODY
    if case.device in ring.canary:
        return Verdict(ok=True, text=f"{case.device} is a canary")
    share, drawn = f"{ring.fraction:.6g}", f"{ring.draw(case.device) / 2**64:.6g}"
    return Verdict(ring.admits(case.device), f"the ring is {share} of the fleet, {case.device} draws {drawn}")


SLOT_RULES: tuple[Rule[Question], ...] = (
    Rule("target", "the model's owners signed a bundle of that name", UnknownTarget, _is_known, is_ground=True),
    Rule("digest", "the SHA-256 is the signed one", DifferentTarget, _same_digest),
    Rule("length", "the length is the signed one", DifferentTarget, _same_length),
    Rule("facts", "the owners say what the bundle is", MalformedMetadata, _has_facts, is_ground=True),
    Rule("model", "it is a bundle of the slot's model", ForeignTarget, _is_of_model),
    Rule("release", "its release is the one that the directive names", ForeignTarget, _is_release),
    Rule("hardware", "it was signed for the device's class of hardware", WrongHardware, _fits_hardware),
    Rule("policy", "the policy is that of the model", MismatchedMetadata, _policy_is_of_model),
    Rule("floor", "its release is not below the signed floor", BelowFloor, _above_floor),
    Rule("listed", "the policy gives its release a ring", UnlistedRelease, _is_listed),
    Rule("ring", "the device is inside that ring: a canary, or drawn by its fraction", OutsideRing, _in_ring),
)
"""What a device asks of each bundle that a believed directive wants, in order."""

RULES: tuple[Rule[Received] | Rule[Question], ...] = (*DIRECTIVE_RULES, *SLOT_RULES)
"""Every rule of a device on top of TUF's own, in order."""


def _decode(cls: type[T], data: bytes, name: str) -> T:
    try:
        return cls.model_validate(strictjson.loads(data))
    except strictjson.JsonRefused as error:
        raise MalformedMetadata(f"{name} is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise MalformedMetadata(f"{name} is not valid", why=first_problem(error)) from error
