"""One-time enrolment tokens: 192 random bits, stored as a digest, bound to one name, good for one key, for a while.

The same token with the same key is answered again while it lives, because a device may lose power between the answer
and its own disk. Another key is refused: the first use decides. A name has one unused token at most: a newer one voids
it, and so does a device that joins by another. Functions take the caller's transaction.
"""

import secrets
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from dsops.errors import Conflict, InvalidInput
from dsops.ids import DeviceId
from dsops.states import Device
from dsops_controller import audit
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import enrolment_token as tokens
from dsops_controller.db.times import to_ms
from dsops_controller.fleet.applications import token_sha256
from dsops_controller.fleet.decision import Token

TOKEN_BYTES = 24
MIN_TTL_S, MAX_TTL_S = 1.0, 30 * 86400.0
NO_CLAIM: dict[str, object] = {"public_key": None, "asked_ms": None, "origin": "", "content_public_key": None}
_SHUT_OUT = frozenset({Device.SUSPENDED, Device.DECOMMISSIONED})


def check_ttl(ttl_s: float) -> None:
    """Return if a token may live so long.

    Raises:
        InvalidInput: It may not.
    """
    if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        why = f"{MIN_TTL_S:.0f} to {MAX_TTL_S:.0f} s are allowed"
        raise InvalidInput(f"a token cannot live {ttl_s} s", why=why)


def make(connection: Connection, name: DeviceId, ttl_s: float, now: datetime, actor: str) -> str:
    """Store a token for a name, which is registered if it is new; return the token. Unused ones before it are void.

    Raises:
        Conflict: The device is suspended or decommissioned.
    """
    open_name(connection, name, now, "get a token")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    _void_unused(connection, name)
    expires = now + timedelta(seconds=ttl_s)
    values = {"device": name, "created_ms": to_ms(now), "expires_ms": to_ms(expires)}
    connection.execute(insert(tokens).values(token_sha256=token_sha256(token), **values))
    audit.record(connection, now, actor, "token.created", name, f"expires {expires.isoformat()}")
    return token


def open_name(connection: Connection, name: DeviceId, now: datetime, what: str) -> None:
    """Register a name as pending if it is new, or was rejected: then whose key it was is forgotten.

    Raises:
        Conflict: The device is suspended or decommissioned; ``what`` says what it cannot have.
    """
    state = connection.execute(select(devices.c.state).where(devices.c.id == name)).scalar()
    if state is None:
        connection.execute(insert(devices).values(id=name, state=Device.PENDING.value, created_ms=to_ms(now)))
    elif state == Device.REJECTED:
        values = {"state": Device.PENDING.value, **NO_CLAIM}
        connection.execute(update(devices).where(devices.c.id == name).values(**values))
    elif state in _SHUT_OUT:
        hint = "accept the device again first" if state == Device.SUSPENDED else "choose another name"
        raise Conflict(f"device {name} cannot {what}", why=f"it is {state}", hint=hint)


def judge(connection: Connection, sha256: str, name: DeviceId, now: datetime, *, is_mine: bool) -> Token:
    """Return what a shown token is; ``is_mine`` says whether the key that asks is the device's present one."""
    row = connection.execute(select(tokens).where(tokens.c.token_sha256 == sha256)).one_or_none()
    if row is None or row.device != name:
        return Token.UNKNOWN
    if row.expires_ms <= to_ms(now):
        return Token.EXPIRED
    if row.used_ms is None:
        return Token.FRESH
    return Token.SAME_KEY if is_mine else Token.OTHER_KEY


def spend(connection: Connection, sha256: str, name: str, now: datetime) -> None:
    """Note that a token was used. At its first use the unused ones of its name are void; later uses void none."""
    unused = update(tokens).where(tokens.c.token_sha256 == sha256, tokens.c.used_ms.is_(None))
    if connection.execute(unused.values(used_ms=to_ms(now))).rowcount:
        _void_unused(connection, name)


def forget(connection: Connection, name: str) -> None:
    """Delete every token of a name."""
    connection.execute(delete(tokens).where(tokens.c.device == name))


def _void_unused(connection: Connection, name: str) -> None:
    """Delete the tokens of a name that nobody used, so that a forgotten one takes no name over later."""
    connection.execute(delete(tokens).where(tokens.c.device == name, tokens.c.used_ms.is_(None)))
