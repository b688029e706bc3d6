"""When and how a device that has an identity gets the next one: renewal, grace for one that was away, a new token."""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from dsops.api.v1.enrolment_pb2 import EnrolReply
from dsops.clock import Clock
from dsops.errors import (
    DsopsError,
    EnrolmentFull,
    EnrolmentPending,
    EnrolmentRefused,
    GraceOver,
    InvalidConfig,
    InvalidInput,
)
from dsops_agent.backoff import Backoff
from dsops_agent.credentials import Credentials
from dsops_agent.enrol import Applicant, accept, pending_wait_s
from dsops_agent.identity import Identity, IdentityFolder

logger = logging.getLogger(__name__)

DUE = 2 / 3
SPREAD = 1 / 20
"""Renewal begins in this part of life after it is due, each device at its own moment."""
WARN = 3 / 4
LOOK_S = 30.0
"""A new token, or a clock that was set, is noticed after so long."""
FIRST_WAIT_S = 10.0
MOST_WAIT_S = 3600.0


class Step(Enum):
    """What to do about the identity."""

    WAIT = "wait"  # it is good for now
    ENROL = "enrol"  # an operator gave a token: enrol anew
    RENEW = "renew"  # ask with the certificate that is still valid
    PROVE = "prove"  # it has ended: ask with a proof by its key


@dataclass(frozen=True)
class Life:
    """The validity of a certificate, and the moment when its renewal is due."""

    begins: datetime
    ends: datetime
    due: datetime

    @classmethod
    def of(cls, identity: Identity, draw: float) -> "Life":
        """Return an identity's; ``draw`` in ``[0, 1)`` chooses the moment."""
        length = identity.expires - identity.valid_from
        return cls(identity.valid_from, identity.expires, identity.valid_from + length * (DUE + SPREAD * draw))

    @property
    def length(self) -> timedelta:
        """From begin to end."""
        return self.ends - self.begins

    def share(self, part: float) -> float:
        """Return a part of it in seconds."""
        return self.length.total_seconds() * part


def next_step(life: Life, now: datetime, *, has_token: bool) -> Step:
    """Return what to do at a moment."""
    if has_token:
        return Step.ENROL
    if now >= life.ends:
        return Step.PROVE
    return Step.RENEW if now >= life.due else Step.WAIT


def describe(life: Life, now: datetime, why: str) -> str:
    """Return what the status says of a renewal that does not succeed; empty while there is nothing to say."""
    if now >= life.ends:
        return f"the certificate ended at {_text(life.ends)}: {why or 'it is not renewed yet'}"
    if now >= life.begins + life.length * WARN:
        return f"the certificate ends at {_text(life.ends)} and is not renewed: {why or 'it will be tried'}"
    return why


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


@dataclass
class Renewer:
    """Keeps the identity good. :meth:`run` is the body of a thread.

    Attributes:
        applicant: Asks the enrolment service; None without an [enrolment] section.
        renew: Asks the store, by mutual TLS.
        rest_s: After a success, as the monotonic clock has it, the next one is not before this: else a device whose
            clock is years ahead would renew for ever.
    """

    device: str
    folder: IdentityFolder
    credentials: Credentials
    applicant: Applicant | None
    renew: Callable[[Identity, bytes], EnrolReply]
    clock: Clock
    draw: Callable[[], float] = field(default_factory=lambda: random.SystemRandom().random)
    rest_s: float = field(init=False, default=0.0)
    _grace_is_over: bool = field(init=False, default=False)
    _bad_token: str = field(init=False, default="")
    _why: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Look at the identity in use."""
        self._regard(self.credentials.current)

    def _regard(self, identity: Identity) -> None:
        self._identity = identity
        self._life = life = Life.of(identity, self.draw())
        most_s = min(MOST_WAIT_S, max(1.0, life.share(0.01)))
        self._backoff = Backoff(min(FIRST_WAIT_S, most_s), most_s, self.draw)
        self._grace_is_over = False
        self._why = ""

    @property
    def problem(self) -> str:
        """What people should know of the identity's end; empty when all is well."""
        return describe(self._life, self.clock.now(), self._why)

    def run(self, stop: threading.Event) -> None:
        """Look after the identity until ``stop`` is set."""
        while not stop.is_set():
            stop.wait(self.step())

    def step(self) -> float:
        """Do what is to be done now; return how many seconds to wait then."""
        try:
            identity = self._act()
        except EnrolmentPending as error:
            self._why = str(error)
            return pending_wait_s(error, self.draw())
        except (DsopsError, OSError) as error:
            return self._failed(error)
        if identity is None:
            return min(LOOK_S, max(0.1, self._life.share(0.01)))
        self._take(identity)
        return 0.0

    def _act(self) -> Identity | None:
        """Get the next identity if it is time; None when it is not.

        Raises:
            DsopsError: What keeps it from being got.
        """
        token = self._token()
        step = next_step(self._life, self.clock.now(), has_token=bool(token))
        if step is not Step.ENROL and self.clock.monotonic_s() < self.rest_s:
            return None
        if step is Step.RENEW:
            reply = self.renew(self._identity, self.folder.request(self.device))
            return accept(reply, self.device, self.folder, self._identity)
        if step is Step.PROVE and self.applicant is not None:
            return self.applicant.enrol("", self._identity, with_proof=not self._grace_is_over)
        if step is Step.ENROL and self.applicant is not None:
            return self._enrol(self.applicant, token)
        return None

    def _token(self) -> str:
        """Return a token that was neither used nor refused."""
        try:
            token = self.applicant.new_token() if self.applicant is not None else ""
        except InvalidConfig as error:  # no reason not to renew
            self._why = str(error)
            return ""
        return "" if token == self._bad_token else token

    def _enrol(self, applicant: Applicant, token: str) -> Identity:
        try:
            return applicant.enrol(token, self._identity)
        except (EnrolmentPending, EnrolmentFull):
            raise
        except EnrolmentRefused:
            self._bad_token = token
            raise

    def _take(self, identity: Identity) -> None:
        logger.info("the device has a new certificate, which ends at %s", _text(identity.expires))
        self._regard(identity)
        self.rest_s = self.clock.monotonic_s() + self._life.share(0.1)
        self.credentials.replace(identity)

    def _failed(self, error: DsopsError | OSError) -> float:
        self._why = str(error)
        if isinstance(error, GraceOver) and not self._grace_is_over:
            self._grace_is_over = True  # from now on as a stranger: an operator has to decide
            return 0.0
        if isinstance(error, EnrolmentRefused) and error.details.get("refusal") == InvalidInput.code:
            self.folder.give_up_request()  # the controller wants another key
        wait_s = self._backoff.next_s()
        logger.warning("no new certificate, next try in %.1f s: %s", wait_s, error)
        return wait_s
