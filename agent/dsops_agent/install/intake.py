"""Taking directives in: learn which models one names, get their trust packs, then believe it or not."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dsops import dsse, messages, strictjson
from dsops.bundle import sha256_hex
from dsops.directive import PAYLOAD_TYPE, Directive, Recipient, check_directive, payload_digest, repeats
from dsops.errors import (
    DeviceError,
    DsopsError,
    ExpiredDirective,
    ForeignDevice,
    ForeignFleet,
    InvalidInput,
    LeapingDirective,
    MalformedDirective,
    MalformedMetadata,
    ReplayedDirective,
    UntrustedBundle,
)
from dsops.ids import model_name
from dsops.messages import TrustPack
from dsops.trust import Director, Policy, SignedTarget
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import DeviceFacts, TrustSource

logger = logging.getLogger(__name__)

MAX_MODELS = 16
MAX_FOLLOWED = 64
"""Models whose trust packs are asked for at most: what names them is not believed yet."""

_FINAL = (ExpiredDirective, ForeignDevice, LeapingDirective, MalformedDirective, ReplayedDirective)
"""Refusals that no newer trust metadata can cure."""


class Trust(Protocol):
    """What this device may believe."""

    def now(self) -> datetime:
        """Return trusted time."""
        ...

    def knows(self, model: str) -> bool:
        """Return whether a pack of the model was ever accepted."""
        ...

    def accept(self, model: str, pack: TrustPack) -> None:
        """Verify and keep a pack; raises UntrustedBundle."""
        ...

    def director(self) -> Director:
        """Return whose directives to believe; raises UntrustedBundle."""
        ...

    def policy(self, model: str) -> Policy:
        """Return a model's policy; raises UntrustedBundle."""
        ...

    def target(self, model: str, path: str) -> SignedTarget | None:
        """Return what the model's owners signed; raises UntrustedBundle."""
        ...


@dataclass
class _Pending:
    """A directive that is not believed yet; ``until_s`` is set once a pack of its models came since the start."""

    data: bytes
    models: tuple[str, ...]
    until_s: float | None = None
    refused: bool = False


@dataclass(frozen=True)
class Judged:
    """What became of the pending directive: believed and durable, or refused."""

    digest: str
    """SHA-256 of its envelope."""
    directive: Directive | None = None
    refusal: UntrustedBundle | None = None

    def outcome(self) -> bool:
        """Return True if it is believed, or raise its refusal."""
        if self.refusal:
            raise self.refusal
        return True


class Intake:
    """Holds the newest directive until it can be judged.

    A directive that the present metadata does not bear out waits a while for newer metadata, is then refused, and is
    tried again silently with each later pack, because a retained message does not come twice.

    Args:
        device: Who we are.
        journal: Keeps what was accepted.
        trust: What we may believe.
        source: Brings trust packs.
        wait_s: How long to wait for newer metadata.
    """

    def __init__(self, device: DeviceFacts, journal: Journal, trust: Trust, source: TrustSource, wait_s: float) -> None:
        self._device = device
        self._journal = journal
        self._trust = trust
        self._source = source
        self._wait_s = wait_s
        self._pending: _Pending | None = None
        self._followed: set[str] = set()
        self._heard: set[str] = set()
        self._unkept: dict[str, bytes] = {}

    def heard(self, model: str) -> bool:
        """Return whether a pack of the model came, and was kept, since the start; before, what is stored may be old."""
        return model in self._heard

    @property
    def next_s(self) -> float | None:
        """When :meth:`judge` has something to do although nothing came."""
        return self._pending.until_s if self._pending and not self._pending.refused else None

    def offer(self, data: bytes) -> bool:
        """Take an envelope in; the newest replaces the one before.

        Returns:
            Whether it is the directive that was accepted last, come again; there is nothing to judge then.

        Raises:
            MalformedDirective: It is no envelope of a directive.
        """
        models = named_models(data)
        if repeats(data, self._journal.directive_digest()):
            self._pending = None
            return True
        self._pending = _Pending(data, models)
        self.follow(models)
        return False

    def follow(self, models: tuple[str, ...]) -> None:
        """Ask for the trust packs of models; only theirs are taken in."""
        for model in models:
            if model not in self._followed and len(self._followed) >= MAX_FOLLOWED:
                logger.debug("the trust pack of %s is not asked for: too many models were named", model)
                continue
            self._followed.add(model)
            self._source.follow(model)

    def pack(self, model: str, data: bytes) -> bool:
        """Take a trust pack in; one of a model that nobody asked for is ignored.

        Returns:
            Whether it is believed now.

        Raises:
            UntrustedBundle: It is not valid, or TUF's rules refuse it, each with a code of its own.
            DeviceError: The disk is full or fails; :meth:`retry` tries to keep it again.
        """
        if model not in self._followed:
            logger.info("ignored a trust pack that nobody asked for")
            return False
        self._heard.add(model)
        try:
            pack = messages.decode(TrustPack, data)
        except InvalidInput as error:
            raise MalformedMetadata(f"the trust pack of {model} is not valid", why=str(error)) from error
        self._unkept.pop(model, None)
        try:
            self._trust.accept(model, pack)
        except DeviceError:
            self._heard.discard(model)
            self._unkept[model] = data
            raise
        return True

    def must_retry(self, model: str) -> bool:
        """Return whether a pack of the model came and could not be kept."""
        return model in self._unkept

    def retry(self, model: str) -> bool:
        """Take a pack in again that could not be kept; returns and raises as :meth:`pack`."""
        return model in self._unkept and self.pack(model, self._unkept[model])

    def judge(self, now_s: float) -> Judged | None:
        """Return what became of the pending directive, once that is certain; a refusal is returned once.

        When it is believed, its ``seq``, its digest and what it wants are durable.

        Raises:
            NoSpace: It is believed, but cannot be kept; it stays pending.
            StateDamaged: Likewise.
        """
        pending = self._pending
        if pending is None or not any(self._trust.knows(model) for model in pending.models):
            return None
        if pending.until_s is None and any(self.heard(model) for model in pending.models):
            pending.until_s = now_s + self._wait_s
        try:
            directive = self._believe(pending.data)
            self._journal.accept(directive, payload_digest(pending.data))
        except UntrustedBundle as error:
            return self._refused(pending, error, now_s)
        except DsopsError:
            pending.until_s = now_s + self._wait_s
            raise
        self._pending = None
        return Judged(sha256_hex(pending.data), directive=directive)

    def _refused(self, pending: _Pending, error: UntrustedBundle, now_s: float) -> Judged | None:
        is_final = isinstance(error, _FINAL)
        if is_final:
            self._pending = None
        if pending.refused or not (is_final or (pending.until_s is not None and now_s >= pending.until_s)):
            logger.info("a directive waits for newer trust metadata: %s", error)
            return None
        pending.refused = True
        return Judged(sha256_hex(pending.data), refusal=error)

    def _believe(self, data: bytes) -> Directive:
        director = self._trust.director()
        if director.fleet != self._device.fleet:
            raise ForeignFleet("the trust metadata is of another fleet", why=director.fleet)
        recipient = Recipient(self._device.fleet, self._device.device, director.keyring(), director.threshold)
        return check_directive(data, recipient, last_seq=self._journal.seq(), now=self._trust.now())


def named_models(data: bytes) -> tuple[str, ...]:
    """Return the models that an envelope claims to name, without trusting it.

    Raises:
        MalformedDirective: It is no envelope of a directive, or names too many models.
    """
    try:
        payload = strictjson.loads(dsse.decode(data, PAYLOAD_TYPE).content())
        slots = payload["slots"] if isinstance(payload, dict) else None
        names = tuple(model_name(str(name)) for name in slots) if isinstance(slots, dict) else ()
    except (strictjson.JsonRefused, KeyError, InvalidInput, UntrustedBundle) as error:
        raise MalformedDirective("the directive is refused", why=str(error)) from error
    if not 0 < len(names) <= MAX_MODELS:
        raise MalformedDirective(
            "the directive is refused", why=f"it names {len(names)} models, 1 to {MAX_MODELS} may be"
        )
    return names
