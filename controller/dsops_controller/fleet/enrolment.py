"""How a device joins: a one-time token, made by an operator for one name, is exchanged for a certificate.

The token has 192 random bits and is stored as a digest. It is bound to the device's name, lives for a limited time and
works once; yet the same token with the same public key is answered again while it lives, because a device may lose
power between the answer and its own disk. Another key is refused: the first use decides.
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy import Connection, insert, select, update

from dsops.clock import Clock
from dsops.errors import Conflict, EnrolmentRefused, InvalidInput
from dsops.ids import DeviceId, device_id
from dsops.manifest import first_problem
from dsops.messages import Inventory
from dsops.sealing import recipient_key
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import enrolment_token as tokens
from dsops_controller.db.tables import observed as reports
from dsops_controller.db.times import to_ms
from dsops_controller.fleet.ca import Authority, DeviceCertificate, key_text, requested_key
from dsops_controller.fleet.registry import encode_inventory
from dsops_controller.rollout import desired

_log = logging.getLogger(__name__)

TOKEN_BYTES = 24
MIN_TTL_S, MAX_TTL_S = 1.0, 30 * 86400.0
_MAX_TOKEN_LENGTH = 256
_MAX_FACT_LENGTH = 200
_OUT = frozenset({Device.SUSPENDED, Device.REJECTED, Device.DECOMMISSIONED})


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


@dataclass(frozen=True)
class _Request:
    device: DeviceId
    token_sha256: str
    csr_der: bytes
    public_key: str
    inventory: Inventory
    content_public_key: bytes | None


class Enrolment:
    """Makes tokens and exchanges them for certificates."""

    def __init__(
        self,
        db: Database,
        authority: Authority,
        clock: Clock,
        settings: ReplySettings,
        refusals: audit.RefusalGuard | None = None,
    ) -> None:
        self._db = db
        self._authority = authority
        self._clock = clock
        self._settings = settings
        self._refusals = refusals or audit.RefusalGuard(clock)

    def new_token(self, device: str, ttl_s: float = 3600.0, actor: str = audit.SYSTEM) -> str:
        """Return a fresh token for one device, which is registered as pending if it is new.

        The token is shown once; only its digest is stored. For a device that takes part already it allows a new key.

        Raises:
            InvalidInput: The name or the time to live is not allowed.
            Conflict: The device is suspended, rejected or decommissioned.
        """
        name = device_id(device)
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            raise InvalidInput(
                f"a token cannot live {ttl_s} s", why=f"{MIN_TTL_S:.0f} to {MAX_TTL_S:.0f} s are allowed"
            )
        token = secrets.token_urlsafe(TOKEN_BYTES)
        now = self._clock.now()
        with self._db.write() as connection:
            _register(connection, name, now)
            expires = now + timedelta(seconds=ttl_s)
            values = {"device": name, "created_ms": to_ms(now), "expires_ms": to_ms(expires)}
            connection.execute(insert(tokens).values(token_sha256=_digest(token), **values))
            audit.record(connection, now, actor, "token.created", name, f"expires {expires.isoformat()}")
        return token

    def enrol(
        self, device: str, token: str, csr_der: bytes, facts: Mapping[str, str], content_public_key: bytes = b""
    ) -> EnrolmentReply:
        """Answer a device that shows a token and a signing request.

        Args:
            device: The name that the device claims.
            token: The token that it was given.
            csr_der: PKCS #10 request for a P-256 key.
            content_public_key: X25519, 32 bytes: what content keys are wrapped to. Without one the device gets none.
            facts: Fields of :class:`dsops.messages.Inventory` as text; others are ignored.

        Raises:
            EnrolmentRefused: The token does not allow it, or the device is shut out; recorded with the exact reason.
            InvalidInput: Name, request or facts are malformed; nothing was looked up.
        """
        request = _request(device, token, csr_der, facts, content_public_key)
        with self._db.write() as connection:
            try:
                certificate = self._answer(connection, request)
            except EnrolmentRefused as error:
                refusal = error
                self._refusals.refuse(
                    connection, f"device:{request.device}", "enrolment.refused", request.device, error.why
                )
            else:
                return self._reply(certificate)
        _log.warning("enrolment refused: %s", refusal)
        raise refusal

    def _answer(self, connection: Connection, request: _Request) -> DeviceCertificate:
        now = self._clock.now()
        found = connection.execute(select(tokens).where(tokens.c.token_sha256 == request.token_sha256)).one_or_none()
        known = connection.execute(select(devices).where(devices.c.id == request.device)).one_or_none()
        _judge(request, found, known, now)
        certificate = self._authority.issue_device(request.csr_der, request.device)
        used = update(tokens).where(tokens.c.token_sha256 == request.token_sha256, tokens.c.used_ms.is_(None))
        connection.execute(used.values(used_ms=to_ms(now)))
        assert known is not None
        if known.public_key != certificate.public_key:
            _forget_counters(connection, request.device)
        _accept(connection, request, certificate)
        detail = f"certificate {certificate.serial}, it was {known.state}"
        audit.record(connection, now, f"device:{request.device}", "enrolment.accepted", request.device, detail)
        return certificate

    def _reply(self, certificate: DeviceCertificate) -> EnrolmentReply:
        settings = self._settings
        return EnrolmentReply(
            certificate_pem=certificate.certificate_pem,
            ca_pem=self._authority.certificate_pem,
            fleet=settings.fleet,
            broker=settings.broker,
            store=settings.store,
            topic_prefix=settings.topic_prefix,
        )


def _request(device: str, token: str, csr_der: bytes, facts: Mapping[str, str], content_public_key: bytes) -> _Request:
    name = device_id(device)
    if not 0 < len(token) <= _MAX_TOKEN_LENGTH:
        raise InvalidInput("this is not a token", why=f"{len(token)} characters")
    if content_public_key:
        recipient_key(content_public_key)
    public_key = key_text(requested_key(csr_der))
    return _Request(name, _digest(token), csr_der, public_key, _inventory(facts), content_public_key or None)


def _judge(request: _Request, token: AnyRow | None, known: AnyRow | None, now: datetime) -> None:
    """Return if the token allows the request. Who cannot show a token for this name learns nothing but that."""
    what = f"{request.device} may not join"
    if token is None or known is None or not hmac.compare_digest(token.token_sha256, request.token_sha256):
        raise EnrolmentRefused(what, why="there is no such token for this name")
    if not hmac.compare_digest(token.device, request.device):
        raise EnrolmentRefused(what, why="there is no such token for this name")
    if token.expires_ms <= to_ms(now):
        raise EnrolmentRefused(what, why="the token has expired")
    if known.state in _OUT:
        raise EnrolmentRefused(what, why=f"the device is {known.state}", hint="ask an operator to accept the device")
    if token.used_ms is not None and known.public_key != request.public_key:
        raise EnrolmentRefused(what, why="the token was used for another key")


def _register(connection: Connection, name: DeviceId, now: datetime) -> None:
    state = connection.execute(select(devices.c.state).where(devices.c.id == name)).scalar()
    if state is None:
        connection.execute(insert(devices).values(id=name, state=Device.PENDING.value, created_ms=to_ms(now)))
    elif state in _OUT:
        raise Conflict(f"device {name} cannot get a token", why=f"it is {state}", hint="accept the device again first")


def _accept(connection: Connection, request: _Request, certificate: DeviceCertificate) -> None:
    values = {
        "state": Device.ACCEPTED.value,
        "serial": certificate.serial,
        "public_key": certificate.public_key,
        "inventory": encode_inventory(request.inventory),
        "content_public_key": request.content_public_key,
    }
    connection.execute(update(devices).where(devices.c.id == request.device).values(**values))
    desired.outdate(connection, request.device)


def _forget_counters(connection: Connection, device: DeviceId) -> None:
    """Let a device with a new key count from the start; nothing signed by the key before is believed any more."""
    connection.execute(update(reports).where(reports.c.device == device).values(counter=0))
    fresh = {"boot_id": None, "conn_seq": 0, "online": False}
    connection.execute(update(devices).where(devices.c.id == device).values(**fresh))


def _inventory(facts: Mapping[str, str]) -> Inventory:
    known = {name: facts[name][:_MAX_FACT_LENGTH] for name in Inventory.model_fields if name in facts}
    try:
        return Inventory.model_validate(known)
    except ValidationError as error:
        raise InvalidInput("the device's facts are not valid", why=first_problem(error)) from error


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
