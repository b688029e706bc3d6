"""How a device joins: it shows a token, a listed key or a proof of its key before, or it waits for an operator.

The rules are in :mod:`dsops_controller.fleet.decision`. Here the facts are read, the certificate is issued, and what
was decided is stored. The issuer is asked before the one short transaction that decides anew and stores, so it never
holds up the database; a certificate that is not stored is never handed out.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from dsops import dsse
from dsops.clock import Clock
from dsops.errors import (
    DeviceBarred,
    EnrolmentFull,
    EnrolmentRefused,
    GraceOver,
    IdentityTaken,
    TokenExpired,
    TokenUnknown,
    TokenUsed,
)
from dsops.ids import device_id
from dsops.renewal import check_proof
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.allowance import Allowance
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.tables import device as devices
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.fleet import certificates, preauthorised, tokens, waiting
from dsops_controller.fleet.applications import Application, Request, check
from dsops_controller.fleet.certificates import Reason
from dsops_controller.fleet.decision import Claim, Facts, IdentityRules, Life, Outcome, Token, Verdict, decide
from dsops_controller.fleet.issuer import DeviceCertificate, Issuer
from dsops_controller.fleet.registry import encode_inventory, forget_counters
from dsops_controller.fleet.standing import Changes
from dsops_controller.rollout import desired

_log = logging.getLogger(__name__)

CLAIM_BURST, CLAIMS_PER_S = 20.0, 0.5
"""New names that one address may claim: so many at once, then so many a second."""
STRANGER_BURST, STRANGERS_PER_S = 500.0, 50.0
"""Requests without a token that are looked at from one address; and those of devices that wait, from everywhere."""
WRONG_BURST, WRONG_PER_S = 20.0, 1 / 60
"""Requests with a token that is not good, of one address, that are told so and recorded."""
ISSUE_BURST, ISSUES_PER_S, ISSUES_PER_LIFE = 5.0, 1 / 300, 10
"""Certificates of one device: so many at once, then so many a second, or in a certificate's life if that is more."""
_RULES = IdentityRules()

_WHY: dict[type[EnrolmentRefused], str] = {
    TokenUnknown: "there is no such token for this name",
    TokenExpired: "the token has expired",
    TokenUsed: "the token was used for another key",
    IdentityTaken: "another key has this name",
    EnrolmentFull: "too many wait or ask at once",
    GraceOver: "its certificate ended too long ago; an operator has to accept it again",
}


@dataclass(frozen=True)
class ReplySettings:
    """What every device is told beside its certificate: ``broker`` and ``store`` as ``host:port``."""

    fleet: str
    broker: str
    store: str
    topic_prefix: str


@dataclass(frozen=True)
class EnrolmentReply:
    """The answer to a device; the fields of the message ``EnrolReply``."""

    certificate_pem: bytes
    ca_pem: bytes
    fleet: str
    broker: str
    store: str
    topic_prefix: str
    pending: bool = False
    retry_s: int = 0


def answer(settings: ReplySettings, ca_pem: bytes, certificate_pem: bytes) -> EnrolmentReply:
    """Return the answer that brings a certificate."""
    return EnrolmentReply(
        certificate_pem, ca_pem, settings.fleet, settings.broker, settings.store, settings.topic_prefix
    )


def device_allowance(clock: Clock, rules: IdentityRules) -> Allowance:
    """Return how many certificates a device may cause, by its name."""
    return Allowance(clock, ISSUE_BURST, max(ISSUES_PER_S, ISSUES_PER_LIFE / rules.life.total_seconds()))


class Enrolment:
    """Makes tokens, and answers devices that ask to join."""

    def __init__(
        self,
        db: Database,
        issuer: Issuer,
        clock: Clock,
        settings: ReplySettings,
        rules: IdentityRules = _RULES,
        changes: Changes | None = None,
    ) -> None:
        self._db = db
        self._issuer = issuer
        self._clock = clock
        self._settings = settings
        self._refusals = audit.RefusalGuard(clock, rules.refusals_max)  # its own: strangers silence nothing else
        self._rules = rules
        self._changes = changes or Changes(db)
        self._claims = Allowance(clock, CLAIM_BURST, CLAIMS_PER_S)
        self._strangers = Allowance(clock, STRANGER_BURST, STRANGERS_PER_S)
        self._waiting = Allowance(clock, STRANGER_BURST, STRANGERS_PER_S)
        self._wrong = Allowance(clock, WRONG_BURST, WRONG_PER_S)
        self._issues = device_allowance(clock, rules)

    def new_token(self, device: str, ttl_s: float = 3600.0, actor: str = audit.SYSTEM) -> str:
        """Return a fresh token for one device, which is registered as pending if it is new.

        The token is shown once; only its digest is stored. For a device that takes part already it allows a new key;
        for a name that was rejected it lets the right device have it. A token before it that nobody used is void.

        Raises:
            InvalidInput: The name or the time to live is not allowed.
            Conflict: The device is suspended or decommissioned.
        """
        name = device_id(device)
        tokens.check_ttl(ttl_s)
        with self._db.write() as connection:
            return tokens.make(connection, name, ttl_s, self._clock.now(), actor)

    def enrol(self, application: Application) -> EnrolmentReply:
        """Answer a device: with a certificate, or that it has to wait.

        Raises:
            EnrolmentRefused: One of its leaves says why; recorded with the exact reason.
            InvalidInput: Name, request or facts are malformed; nothing was looked up.
        """
        if not application.token and not self._strangers.take(application.origin):
            raise _full(application.device, "too many ask at once from one address")
        request = check(application)
        verdict, is_stored, is_paid = self._look(request)
        made = None
        if verdict is Outcome.GRANT:
            made = self._issuer.issue_device(request.csr_der, request.device, self._rules.life)
        if not is_stored:
            try:
                verdict = self._store(request, made, is_paid=is_paid)
            except IntegrityError:  # somebody registered the very name in this moment
                verdict = self._store(request, made, is_paid=is_paid)
        if verdict is GraceOver:  # it takes part no longer
            self._changes.note()
        if not isinstance(verdict, Outcome):
            raise self._refusal(request, verdict)
        if verdict is Outcome.GRANT and made is not None:
            return answer(self._settings, self._issuer.chain_pem, made.certificate_pem)
        return self._wait()

    def forget_silent(self) -> int:
        """Forget strangers that no longer ask; return how many."""
        now = self._clock.now()
        with self._db.read() as connection:
            if not waiting.count_silent(connection, self._rules, now):
                return 0
        with self._db.write() as connection:
            return waiting.forget_silent(connection, self._rules, now)

    def _look(self, request: Request) -> tuple[Verdict, bool, bool]:
        """Decide without writing; say whether all that follows is stored already, and whether a certificate is paid.

        A new claim or a wrong token spends the allowance of its address here, and a certificate that of its device, so
        that a flood of them writes nothing.
        """
        now = self._clock.now()
        with self._db.read() as connection:
            known = _known(connection, request)
            facts = self._facts(connection, request, known, now)
        verdict = decide(facts)
        if verdict is Outcome.GRANT:
            return verdict, False, self._pay(request, facts)
        if verdict is not Outcome.WAIT:
            if not request.is_stranger and not self._wrong.take(request.origin):
                raise _full(request.device, "too many wrong tokens from one address")
            return verdict, verdict is not GraceOver and self._refusals.is_full, False
        if not self._waiting.take():
            raise _full(request.device, "too many ask at once")
        is_new = known is None or known.public_key != request.public_key
        if is_new and not self._claims.take(request.origin):
            raise _full(request.device, "too many new names from one address")
        return verdict, known is not None and not is_new and not waiting.is_due(known, now), False

    def _pay(self, request: Request, facts: Facts) -> bool:
        """Spend the device's allowance on a certificate; return whether it was spent.

        A token that nobody used costs nothing: who holds a lost key of the device could spend everything, and the
        operator's new token has to end just that.

        Raises:
            EnrolmentFull: There is nothing left; answers are lost now and then, but not so often.
        """
        if facts.token is Token.FRESH:
            return False
        if not self._issues.take(request.device):
            raise _full(request.device, "the device got too many certificates in a short time")
        return True

    def _store(self, request: Request, made: DeviceCertificate | None, *, is_paid: bool) -> Verdict:
        """Decide anew in one transaction and store what follows."""
        now = self._clock.now()
        with self._db.write() as connection:
            known = _known(connection, request, is_locked=True)
            facts = self._facts(connection, request, known, now)
            verdict = decide(facts)
            if verdict is Outcome.GRANT and made is not None:
                if not is_paid:  # of many that showed a fresh token at once, only the first one's was fresh
                    self._pay(request, facts)
                _grant(connection, request, known, made, now)
            elif verdict is Outcome.WAIT:
                self._claim(connection, request, known, now)
            elif not isinstance(verdict, Outcome):
                if verdict is GraceOver:
                    _send_back(connection, request, now)
                why = _why(request, verdict, known)
                once = f"{why} {request.origin}"
                by, name = f"device:{request.device}", request.device
                self._refusals.refuse(connection, by, "enrolment.refused", name, why, once=once)
        return verdict

    def _facts(self, connection: Connection, request: Request, known: AnyRow | None, now: datetime) -> Facts:
        claim = Claim.FREE
        if known is not None and known.public_key is not None:
            claim = Claim.MINE if known.public_key == request.public_key else Claim.THEIRS
        state = Device(known.state) if known is not None else None
        if not request.is_stranger:
            token = tokens.judge(connection, request.token_sha256, request.device, now, is_mine=claim is Claim.MINE)
            return Facts(token, state, claim)
        return Facts(
            Token.NONE,
            state,
            claim,
            preauthorised.look(connection, request.device, request.fingerprint),
            self._life(connection, request, claim, now),
            claim is Claim.MINE or waiting.has_room(connection, request.origin, self._rules),
        )

    def _life(self, connection: Connection, request: Request, claim: Claim, now: datetime) -> Life:
        """Return how the certificate is whose key is proved: by the request itself, or by the old key's signature."""
        public_key: str | None = None
        if claim is Claim.MINE:
            public_key = request.public_key
        elif request.proof:
            public_key = _proved(request, certificates.keys(connection, request.device))
        row = certificates.newest(connection, request.device, public_key) if public_key else None
        if row is None:
            return Life.NONE
        return Life.GOOD if from_ms(row.expires_ms) + self._rules.grace > now else Life.OVER

    def _claim(self, connection: Connection, request: Request, known: AnyRow | None, now: datetime) -> None:
        if waiting.note(connection, known, request, now):
            detail = f"key {request.fingerprint} from {request.origin or 'somewhere'}"
            self._refusals.refuse(connection, f"device:{request.device}", "enrolment.pending", request.device, detail)

    def _wait(self) -> EnrolmentReply:
        told = answer(self._settings, self._issuer.chain_pem, b"")
        return replace(told, pending=True, retry_s=self._rules.retry_s)

    def _refusal(self, request: Request, verdict: type[EnrolmentRefused]) -> EnrolmentRefused:
        with self._db.read() as connection:
            why = _why(request, verdict, _known(connection, request))
        error = verdict(f"{request.device} may not join", why=why)
        if not self._refusals.is_full:
            _log.warning("enrolment refused: %s", error)
        return error


def _proved(request: Request, keys: Iterable[str]) -> str | None:
    """Return that of a device's keys (PEM) which signed the proof for this very request; None when none did."""
    for text in keys:
        with suppress(EnrolmentRefused):
            check_proof(request.proof, request.device, request.csr_der, dsse.load_public_key(text))
            return text
    return None


def _full(device: str, why: str) -> EnrolmentFull:
    return EnrolmentFull(f"{device[:64]!r} may not join now", why=why)


def _known(connection: Connection, request: Request, *, is_locked: bool = False) -> AnyRow | None:
    """Return the device's row; locked, so that of two requests for one name the second sees what the first did."""
    query = select(devices).where(devices.c.id == request.device)
    return connection.execute(query.with_for_update() if is_locked else query).one_or_none()


def _why(request: Request, verdict: type[EnrolmentRefused], known: AnyRow | None) -> str:
    if verdict is DeviceBarred and known is not None:
        return f"the device is {known.state}"
    return _WHY[verdict]


def _grant(
    connection: Connection, request: Request, known: AnyRow | None, made: DeviceCertificate, now: datetime
) -> None:
    """Store a certificate. A key that an operator let in ends the one before; one that was proved waits for its use."""
    is_renewal = known is not None and known.state == Device.ACCEPTED and request.is_stranger
    if known is None:
        waiting.note(connection, None, request, now)
    elif not is_renewal and (known.public_key != made.public_key or known.state == Device.PENDING):
        certificates.revoke(connection, request.device, Reason.REPLACED, now, but_key=made.public_key)
        forget_counters(connection, request.device)
    if request.is_stranger:
        preauthorised.spend(connection, request.device, request.fingerprint, now)
    else:
        tokens.spend(connection, request.token_sha256, request.device, now)
    certificates.add(connection, request.device, made, now)
    values: dict[str, object] = {"state": Device.ACCEPTED.value, "inventory": encode_inventory(request.inventory)}
    if request.content_public_key is not None or not is_renewal:
        values["content_public_key"] = request.content_public_key
    connection.execute(update(devices).where(devices.c.id == request.device).values(**values))
    desired.outdate(connection, request.device)
    detail = f"certificate {made.serial}, it was {known.state if known is not None else 'unknown'}"
    audit.record(connection, now, f"device:{request.device}", "enrolment.accepted", request.device, detail)


def _send_back(connection: Connection, request: Request, now: datetime) -> None:
    """Make a device whose grace is over wait for an operator, by the key that it asks with."""
    values: dict[str, object] = {
        "state": Device.PENDING.value,
        "public_key": request.public_key,
        "origin": request.origin,
    }
    values |= {"asked_ms": to_ms(now), "content_public_key": request.content_public_key}
    connection.execute(update(devices).where(devices.c.id == request.device).values(**values))
