"""What is known of deltas, inside a transaction of the caller."""

import json
from collections.abc import Iterable

from sqlalchemy import Connection, func, select

from dsops.directive import DeltaOffer, DesiredSlot
from dsops_controller.db import tables

_delta = tables.delta.c


def active_bundles(connection: Connection, device: str) -> dict[str, str]:
    """Return the digest of each model's active bundle, as the device's newest signed report says."""
    query = select(tables.observed.c.report).where(tables.observed.c.device == device)
    report = connection.execute(query).scalar()
    models = json.loads(report).get("models", {}) if report else {}
    return {model: state["active"] for model, state in models.items() if state.get("active")}


def with_offers(connection: Connection, device: str, slots: dict[str, DesiredSlot]) -> dict[str, DesiredSlot]:
    """Return slots with the deltas that lead to them from what the device has."""
    active = active_bundles(connection, device)
    offers = {model: _offer(connection, active.get(model), slot.sha256) for model, slot in slots.items()}
    return {model: slot.model_copy(update={"delta": offers[model]}) for model, slot in slots.items()}


def _offer(connection: Connection, base: str | None, target: str) -> DeltaOffer | None:
    pair = (_delta.base_sha256 == base) & (_delta.target_sha256 == target) & _delta.sha256.is_not(None)
    row = connection.execute(select(tables.delta).where(pair)).one_or_none() if base else None
    if row is None:
        return None
    return DeltaOffer(base=row.base_sha256, sha256=row.sha256, length_bytes=row.length_bytes, index=row.index_sha256)


def is_settled(connection: Connection, base: str, target: str) -> bool:
    """Return whether nothing is to be made: it is known what a delta saves, or one of the bundles is not here."""
    pair = (_delta.base_sha256 == base) & (_delta.target_sha256 == target)
    if base == target or connection.execute(select(_delta.created_ms).where(pair)).first():
        return True
    bundles = tables.bundle.c.sha256
    here = select(func.count()).select_from(tables.bundle).where(bundles.in_([base, target]))
    return connection.execute(here).scalar_one() < 2


def of_targets(connection: Connection, targets: Iterable[str]) -> list[str]:
    """Return the digests of the delta files that lead to any of these bundles."""
    query = select(_delta.sha256).where(_delta.target_sha256.in_(list(targets)) & _delta.sha256.is_not(None))
    return sorted(connection.execute(query).scalars())
