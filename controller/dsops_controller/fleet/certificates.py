"""The register of device certificates: issued, first used, revoked. The database is the truth, not the certificate.

A new certificate does not end the one before: only when the device is seen to use it is the old one superseded, so an
answer that is lost on its way locks nobody out. Functions take the caller's transaction.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, insert, select, update

from dsops import dsse
from dsops.bundle import sha256_hex
from dsops.errors import UnsignedReport, UntrustedBundle
from dsops.messages import STATE_TYPE
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.tables import certificate as certificates
from dsops_controller.db.tables import device as devices
from dsops_controller.db.tables import observed as reports
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.fleet.issuer import DeviceCertificate, Revoked

GRACE = timedelta(days=30)
"""So long after its end a certificate's key still proves who a device is, unless configured otherwise."""
_ACCEPTED = "accepted"


class Reason(StrEnum):
    """Why a certificate was revoked."""

    SUPERSEDED = "superseded"  # the device uses a newer one
    REPLACED = "replaced"  # an operator let another key take the name
    DECOMMISSIONED = "decommissioned"  # the device is gone for good


@dataclass(frozen=True)
class Standing:
    """What the register says of one certificate and its device; ``state`` is empty for an unknown certificate."""

    device: str = ""
    state: str = ""
    is_revoked: bool = False
    is_used: bool = False


def add(connection: Connection, device: str, made: DeviceCertificate, now: datetime) -> None:
    """Enter a certificate that was issued, as the device's newest."""
    values = {"serial": made.serial, "device": device, "public_key": made.public_key}
    connection.execute(insert(certificates).values(**values, issued_ms=to_ms(now), expires_ms=to_ms(made.expires)))
    newest = {"serial": made.serial, "public_key": made.public_key}
    connection.execute(update(devices).where(devices.c.id == device).values(**newest))


def standing(connection: Connection, serial: str) -> Standing:
    """Return what is known of a certificate."""
    joined = certificates.join(devices, certificates.c.device == devices.c.id)
    columns = (certificates.c.device, devices.c.state, certificates.c.revoked_ms, certificates.c.used_ms)
    row = connection.execute(select(*columns).select_from(joined).where(certificates.c.serial == serial)).one_or_none()
    if row is None:
        return Standing()
    return Standing(row.device, row.state, row.revoked_ms is not None, row.used_ms is not None)


def use(connection: Connection, serial: str, now: datetime) -> None:
    """Note that a certificate is in use; the first time, those of the device from before it are superseded."""
    row = connection.execute(select(certificates).where(certificates.c.serial == serial)).one_or_none()
    if row is not None and row.used_ms is None and row.revoked_ms is None:
        _first_use(connection, row, now)


def use_key(connection: Connection, device: str, key: dsse.PublicKey, now: datetime) -> None:
    """Note that a device signed with a key: as good as using the newest certificate for it."""
    row = newest(connection, device, dsse.public_pem(key))
    if row is not None and row.used_ms is None:
        _first_use(connection, row, now)


def revoke(connection: Connection, device: str, reason: Reason, now: datetime, *, but_key: str = "") -> None:
    """Revoke a device's certificates, except those for one key."""
    query = update(certificates).where(certificates.c.device == device, certificates.c.revoked_ms.is_(None))
    if but_key:
        query = query.where(certificates.c.public_key != but_key)
    connection.execute(query.values(revoked_ms=to_ms(now), reason=reason.value))


def newest(connection: Connection, device: str, public_key: str) -> AnyRow | None:
    """Return a device's newest certificate for one key that is not revoked."""
    query = select(certificates).where(certificates.c.device == device, certificates.c.revoked_ms.is_(None))
    query = query.where(certificates.c.public_key == public_key).order_by(certificates.c.issued_ms.desc())
    return connection.execute(query).first()


def keys(connection: Connection, device: str) -> tuple[str, ...]:
    """Return the keys (PEM) of a device's certificates that are not revoked, newest first; expired ones too."""
    query = select(certificates.c.public_key).where(
        certificates.c.device == device, certificates.c.revoked_ms.is_(None)
    )
    return tuple(dict.fromkeys(connection.execute(query.order_by(certificates.c.issued_ms.desc())).scalars()))


def report_keys(
    connection: Connection, device: str, now: datetime, grace: timedelta = GRACE
) -> dict[str, dsse.PublicKey]:
    """Return the keys by id that a device's reports may be signed with.

    Those are the keys of its certificates that are not revoked, and not expired for longer than the grace. A device
    that was accepted and has no certificate yet has the key that was accepted.
    """
    found = connection.execute(select(certificates).where(certificates.c.device == device)).all()
    ends_ms = to_ms(now - grace)
    texts = {row.public_key for row in found if row.revoked_ms is None and row.expires_ms > ends_ms}
    if not found:
        claimed = connection.execute(select(devices.c.public_key).where(devices.c.id == device)).scalar()
        texts = {claimed} if claimed else set()
    return {dsse.key_id(key): key for key in map(dsse.load_public_key, texts)}


def report_key(
    connection: Connection, device: str, data: bytes, now: datetime, grace: timedelta = GRACE
) -> dsse.PublicKey | None:
    """Return the device's key that a report's envelope names, for its signature to be verified with.

    None for the very report that is stored, if its key counts no longer: a broker hands retained reports out again. For
    bytes that are no envelope it is any key: they are refused by what is wrong with them.

    Raises:
        UnsignedReport: The device has no key, or the envelope names another.
    """
    known = report_keys(connection, device, now, grace)
    if not known:
        raise UnsignedReport(f"device {device} has no key", why="it has not enrolled, or its certificates ended")
    try:
        envelope = dsse.decode(data, STATE_TYPE)
    except UntrustedBundle:
        return next(iter(known.values()))
    named = [signature.keyid for signature in envelope.signatures]
    found = next((known[name] for name in named if name in known), None)
    if found is None and not _is_stored(connection, device, envelope):
        raise UnsignedReport("a device's report is not signed by a key of the device", why="its key is not known")
    return found


def barred(connection: Connection, now: datetime) -> tuple[str, ...]:
    """Return the devices that hold an unexpired certificate and do not take part."""
    query = select(certificates.c.device).distinct().select_from(certificates.join(devices))
    query = query.where(devices.c.state != _ACCEPTED, certificates.c.expires_ms > to_ms(now))
    return tuple(connection.execute(query.order_by(certificates.c.device)).scalars())


def ended(connection: Connection, now: datetime, since: datetime) -> tuple[str, ...]:
    """Return the devices whose last certificate expired after ``since``, those that seem to be connected first.

    A session may have outlived the certificate.
    """
    valid = select(certificates.c.device).where(
        certificates.c.revoked_ms.is_(None), certificates.c.expires_ms > to_ms(now)
    )
    query = select(devices.c.id, devices.c.online).distinct().select_from(certificates.join(devices))
    query = query.where(certificates.c.expires_ms <= to_ms(now), certificates.c.expires_ms > to_ms(since))
    query = query.where(devices.c.id.not_in(valid)).order_by(devices.c.online.desc(), devices.c.id)
    return tuple(connection.execute(query).scalars())


def takes_part(connection: Connection, device: str, now: datetime) -> bool:
    """Return whether a device is accepted and has a certificate that counts."""
    query = select(certificates.c.serial).select_from(certificates.join(devices))
    query = query.where(devices.c.id == device, devices.c.state == _ACCEPTED)
    query = query.where(certificates.c.revoked_ms.is_(None), certificates.c.expires_ms > to_ms(now))
    return connection.execute(query.limit(1)).first() is not None


def revoked(connection: Connection, now: datetime) -> tuple[Revoked, ...]:
    """Return the unexpired certificates that no broker may accept: revoked ones, and all of barred devices."""
    query = select(certificates).select_from(certificates.join(devices)).order_by(certificates.c.serial)
    query = query.where(certificates.c.expires_ms > to_ms(now))
    query = query.where(certificates.c.revoked_ms.is_not(None) | (devices.c.state != _ACCEPTED))
    return tuple(
        Revoked(row.serial, from_ms(row.revoked_ms) if row.revoked_ms is not None else now)
        for row in connection.execute(query)
    )


def _is_stored(connection: Connection, device: str, envelope: dsse.Envelope) -> bool:
    digest = connection.execute(select(reports.c.digest).where(reports.c.device == device)).scalar()
    try:
        return bool(digest) and sha256_hex(envelope.content()) == digest
    except UntrustedBundle:
        return False


def _first_use(connection: Connection, row: AnyRow, now: datetime) -> None:
    connection.execute(update(certificates).where(certificates.c.serial == row.serial).values(used_ms=to_ms(now)))
    older = update(certificates).where(certificates.c.device == row.device, certificates.c.revoked_ms.is_(None))
    older = older.where(certificates.c.serial != row.serial, certificates.c.issued_ms <= row.issued_ms)
    connection.execute(older.values(revoked_ms=to_ms(now), reason=Reason.SUPERSEDED.value))
