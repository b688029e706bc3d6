"""Taking directives in: learn which models one names, get their trust packs, then believe it or not."""

import base64
import binascii
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dsops import dsse, messages, strictjson
from dsops.directive import Directive, Recipient, check_directive
from dsops.errors import DeviceError, DsopsError, InvalidInput, UntrustedBundle
from dsops.ids import model_name
from dsops.messages import TrustPack
from dsops.trust import Director, Policy, SignedTarget
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import DeviceFacts, TrustSource

logger = logging.getLogger(__name__)

MAX_MODELS = 16


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

    def offer(self, data: bytes) -> None:
        """Take an envelope in; the newest replaces the one before.

        Raises:
            UntrustedBundle: It is no envelope of a directive.
        """
        models = named_models(data)
        self._pending = _Pending(data, models)
        self.follow(models)

    def follow(self, models: tuple[str, ...]) -> None:
        """Ask for the trust packs of models; only theirs are taken in."""
        self._followed.update(models)
        for model in models:
            self._source.follow(model)

    def pack(self, model: str, data: bytes) -> None:
        """Take a trust pack in; one of a model that nobody asked for is ignored.

        Raises:
            UntrustedBundle: It is not valid, or TUF's rules refuse it.
            DeviceError: The disk is full or fails; :meth:`retry` tries to keep it again.
        """
        if model not in self._followed:
            logger.info("ignored a trust pack that nobody asked for")
            return
        self._heard.add(model)
        try:
            pack = messages.decode(TrustPack, data)
        except InvalidInput as error:
            raise UntrustedBundle(f"the trust pack of {model} is not valid", why=str(error)) from error
        self._unkept.pop(model, None)
        try:
            self._trust.accept(model, pack)
        except DeviceError:
            self._heard.discard(model)
            self._unkept[model] = data
            raise

    def must_retry(self, model: str) -> bool:
        """Return whether a pack of the model came and could not be kept."""
        return model in self._unkept

    def retry(self, model: str) -> None:
        """Take a pack in again that could not be kept; raises as :meth:`pack`."""
        if model in self._unkept:
            self.pack(model, self._unkept[model])

    def judge(self, now_s: float) -> Directive | None:
        """Return the pending directive once it is believed; its ``seq`` and wishes are durable then.

        Raises:
            UntrustedBundle: It is refused, said once.
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
            self._journal.accept(directive)
        except UntrustedBundle as error:
            if pending.until_s is not None and now_s >= pending.until_s and not pending.refused:
                pending.refused = True
                raise
            logger.info("a directive waits for newer trust metadata: %s", error)
            return None
        except DsopsError:
            pending.until_s = now_s + self._wait_s
            raise
        self._pending = None
        return directive

    def _believe(self, data: bytes) -> Directive:
        director = self._trust.director()
        if director.fleet != self._device.fleet:
            raise UntrustedBundle("the trust metadata is of another fleet", why=director.fleet)
        recipient = Recipient(self._device.fleet, self._device.device, director.keyring(), director.threshold)
        return check_directive(data, recipient, last_seq=self._journal.seq(), now=self._trust.now())


def named_models(data: bytes) -> tuple[str, ...]:
    """Return the models that an envelope claims to name, without trusting it.

    Raises:
        UntrustedBundle: It is no envelope of a directive, or names too many models.
    """
    envelope = dsse.decode(data)
    try:
        payload = strictjson.loads(base64.b64decode(envelope.payload, validate=True))
        slots = payload["slots"] if isinstance(payload, dict) else None
        names = tuple(model_name(str(name)) for name in slots) if isinstance(slots, dict) else ()
    except (strictjson.JsonRefused, binascii.Error, KeyError, InvalidInput) as error:
        raise UntrustedBundle("the directive is not valid", why=str(error)) from error
    if not 0 < len(names) <= MAX_MODELS:
        raise UntrustedBundle(
            "the directive is not valid", why=f"it names {len(names)} models, 1 to {MAX_MODELS} may be"
        )
    return names
