"""Models and bundles that devices name and nobody registered: few get rows of their own, the rest share one.

A device may write any name into its records. What was pushed to the controller has rows of its own always, and what has
them already keeps them, also when its bundle is registered no more.
"""

from collections.abc import Collection
from typing import TypeVar

from sqlalchemy import Connection, bindparam, select, union

from dsops_controller.db.tables import bundle, bundle_total, device_latest, drift_newest, drift_state

UNKNOWN = "(unknown)"
"""Under this name stand models that have no row of their own: no model can be named so."""
UNKNOWN_BUNDLE = ("", UNKNOWN, 0)
MAX_MODELS = 8
"""Models of one device that are not registered and have rows of their own."""
MAX_BUNDLES = 64
"""Bundles of all devices that are not registered and have totals of their own."""
_HOST = ""
BundleKey = tuple[str, str, int]
"""Digest, model and release."""
T = TypeVar("T", str, BundleKey)
_PRESENT = union(
    *(
        select(of.c.model).where(of.c.device == bindparam("of_device"))
        for of in (device_latest, drift_newest, drift_state)
    )
)


def crowded_models(connection: Connection, device: str, models: Collection[str]) -> frozenset[str]:
    """Return those of the models for which the device has no more rows: they stand under :data:`UNKNOWN`."""
    present = set(connection.execute(_PRESENT, {"of_device": device}).scalars()) - {_HOST, UNKNOWN}
    new = set(models) - present
    if not new:
        return frozenset()
    registered = set(connection.execute(select(bundle.c.model).distinct()).scalars())
    return _beyond(new - registered, MAX_MODELS - len(present - registered))


def crowded_bundles(connection: Connection, bundles: Collection[BundleKey]) -> frozenset[BundleKey]:
    """Return those of the bundles for which there are no more totals: they stand under :data:`UNKNOWN_BUNDLE`."""
    column = bundle_total.c
    rows = connection.execute(select(column.digest, column.model, column.release)).all()
    present = {(row.digest, row.model, row.release) for row in rows} - {UNKNOWN_BUNDLE}
    new = set(bundles) - present
    if not new:
        return frozenset()
    pushed = connection.execute(select(bundle.c.sha256, bundle.c.model, bundle.c.release)).all()
    registered = {(row.sha256, row.model, row.release) for row in pushed}
    return _beyond(new - registered, MAX_BUNDLES - len(present - registered))


def _beyond(strangers: set[T], room: int) -> frozenset[T]:
    return frozenset(sorted(strangers)[max(room, 0) :])
