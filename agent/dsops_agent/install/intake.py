"""Taking directives in: learn which models one names, get their trust metadata, then believe it or not."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dsops import dsse, strictjson
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
    ReplayedDirective,
    UntrustedBundle,
)
from dsops.ids import model_name
from dsops.trust import Director, Policy, SignedTarget
from dsops_agent.install.documents import Documents
from dsops_agent.install.journal import Journal
from dsops_agent.install.places import model_of
from dsops_agent.install.ports import DeviceFacts
from dsops_agent.trust.trusted_time import ClockState

logger = logging.getLogger(__name__)

MAX_MODELS = 16

_FINAL = (ExpiredDirective, ForeignDevice, LeapingDirective, MalformedDirective, ReplayedDirective)
"""Refusals that no newer trust metadata can cure."""


class Trust(Protocol):
    """What this device may believe."""

    def now(self) -> datetime:
        """Return trusted time."""
        ...

    def knows(self, model: str) -> bool:
        """Return whether metadata of the model was ever accepted."""
        ...

    def accept(self, model: str, head: bytes, documents: Mapping[str, bytes]) -> tuple[str, ...]:
        """Verify and keep what a head leads to; return what of it is missing; raises Refusal."""
        ...

    def clock_state(self) -> ClockState:
        """Return what to think of the host's clock."""
        ...

    def keep_time(self, *, at_once: bool = False) -> None:
        """Make trusted time durable when that is due; raises DeviceError."""
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
    """A directive that is not believed yet; ``until_s`` is set once metadata of its models came since the start."""

    data: bytes
    models: tuple[str, ...]
    until_s: float | None = None
    refused: bool = False
    doubt: UntrustedBundle | None = None
    """Why it is not believed so far."""


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
    tried again silently with each later head, because a retained message does not come twice.

    Args:
        device: Who we are.
        journal: Keeps what was accepted.
        trust: What we may believe.
        documents: Brings the documents that a head leads to.
        wait_s: How long to wait for newer metadata.
    """

    def __init__(
        self, device: DeviceFacts, journal: Journal, trust: Trust, documents: Documents, wait_s: float
    ) -> None:
        self._device = device
        self._journal = journal
        self._trust = trust
        self._documents = documents
        self._wait_s = wait_s
        self._pending: _Pending | None = None
        self._passed_over: Judged | None = None
        self._head = b""
        self._followed: dict[str, None] = {}
        self._due: dict[str, None] = {}
        self._missing: dict[str, tuple[str, ...]] = {}
        self._heard: set[str] = set()
        self._unkept: set[str] = set()

    def heard(self, model: str) -> bool:
        """Return whether a head was judged for the model since the start; before, what is stored may be old."""
        return model_of(model) in self._heard

    def is_behind(self, model: str) -> bool:
        """Return whether a newer head is known whose documents are not all here: what is stored is old."""
        return bool(self._missing.get(model_of(model)))

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
        self._pass_over(data)
        if repeats(data, self._journal.directive_digest()):
            self._pending = None
            self.follow()
            return True
        judges = models or tuple(self._followed)  # one that wants nothing is judged by what was followed before
        self._pending = _Pending(data, judges)
        self.follow(judges)
        return False

    def passed_over(self) -> Judged | None:
        """Return, once, the directive that another one replaced while nothing bore it out: that refuses it for good."""
        passed, self._passed_over = self._passed_over, None
        return passed

    def _pass_over(self, data: bytes) -> None:
        pending = self._pending
        if pending and pending.doubt and not pending.refused and pending.data != data:
            self._passed_over = Judged(sha256_hex(pending.data), refusal=pending.doubt)

    def follow(self, models: tuple[str, ...] = ()) -> None:
        """Take the trust metadata in of ``models``, which nobody vouches for yet, and of those desired or installed."""
        known = map(model_of, (*self._journal.desired(), *self._journal.installs()))
        followed = dict.fromkeys((*known, *models))
        self._due |= {model: None for model in followed if model not in self._followed}
        for model in [model for model in self._followed if model not in followed]:
            self._due.pop(model, None)
            self._missing.pop(model, None)
            self._unkept.discard(model)
        self._followed = followed

    def head(self, data: bytes) -> None:
        """Take the head of the trust metadata; the newest counts."""
        self._head = data
        self._due = dict(self._followed)

    def document(self, digest: str, data: bytes, now_s: float) -> bool:
        """Take a document; return False when it is not one that is waited for."""
        if not self._documents.wants(digest):
            return False
        if self._documents.arrived(digest, data, now_s):
            self._due |= dict.fromkeys(model for model, missing in self._missing.items() if missing)
        return True

    def due(self) -> tuple[str, ...]:
        """Return the models whose metadata must be judged, by :meth:`take_in`."""
        return tuple(self._due) if self._head else ()

    def take_in(self, model: str, now_s: float) -> bool:
        """Judge the newest head for a model; ask for the documents that are missing.

        Returns:
            Whether nothing is missing, and all of it is believed.

        Raises:
            Refusal: TUF's rules refuse it, each with a code of its own.
            DeviceError: The disk is full or fails; :meth:`retry` tries to keep it again.
        """
        self._due.pop(model, None)
        self._missing.pop(model, None)
        self._unkept.discard(model)
        try:
            self._missing[model] = self._trust.accept(model, self._head, self._documents.held)
        except DeviceError:
            self._heard.discard(model)
            self._unkept.add(model)
            raise
        finally:
            if not self._missing.get(model) and model not in self._unkept:
                self._heard.add(model)
            self._ask(now_s)
        return not self._missing[model]

    def _ask(self, now_s: float) -> None:
        """Ask for what is missing, once every model was looked at; what was held for a retry is not forgotten."""
        missing = [digest for digests in self._missing.values() for digest in digests]
        if not self._due and (missing or not self._unkept):
            self._documents.want(missing, now_s)

    def must_retry(self, model: str) -> bool:
        """Return whether a head came and could not be kept for a model."""
        return model_of(model) in self._unkept

    def retry(self, model: str, now_s: float) -> bool:
        """Judge the head again if it could not be kept; returns and raises as :meth:`take_in`."""
        return self.must_retry(model) and self.take_in(model_of(model), now_s)

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
        if any(self.is_behind(model) for model in pending.models):
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
        pending.doubt = error
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
        slots = payload.get("slots") if isinstance(payload, dict) else None
        names = tuple(model_name(str(name)) for name in slots) if isinstance(slots, dict) else None
    except (strictjson.JsonRefused, InvalidInput, UntrustedBundle) as error:
        raise MalformedDirective("the directive is refused", why=str(error)) from error
    if names is None:
        raise MalformedDirective("the directive is refused", why="it has no slots")
    if len(names) > MAX_MODELS:
        raise MalformedDirective("the directive is refused", why=f"it names {len(names)} models, {MAX_MODELS} may be")
    return names
