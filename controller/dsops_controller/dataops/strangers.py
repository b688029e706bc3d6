"""Models and bundles that devices name and nobody registered: few get rows of their own, the rest share one.

A device may write any name into its records. What was pushed to the controller has rows of its own always, and what has
them already keeps them, also when its bundle is registered no more.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, select, union

from dsops_controller.db.tables import bundle, bundle_total, device_latest, drift_newest, drift_state

UNKNOWN = "(unknown)"
"""Under this name stand models that have no row of their own: no model can be named so."""
UNKNOWN_BUNDLE = ("", UNKNOWN, 0)
MAX_MODELS = 8
"""Models of one device that are not registered and have rows of their own."""
MAX_BUNDLES = 64
"""Bundles of all devices that are not registered and have totals of their own."""
MAX_BUNDLES_OF_DEVICE = 8
"""Of these, those that one device was the first to name: who invents bundles leaves room for what others run."""
_HOST = ""
BundleKey = tuple[str, str, int]
"""Digest, model and release."""
Namers = Callable[[Collection[BundleKey]], Mapping[BundleKey, Collection[str]]]
"""Returns which devices named each of some bundles."""
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


@dataclass(frozen=True, slots=True)
class Seats:
    """What becomes of bundles that have no totals yet.

    Attributes:
        crowded: Those that get none: they stand under :data:`UNKNOWN_BUNDLE`.
        named_by: In which device's share those are that get some and are not registered.
    """

    crowded: frozenset[BundleKey] = frozenset()
    named_by: Mapping[BundleKey, str] = field(default_factory=dict)


def seats(connection: Connection, bundles: Collection[BundleKey], namers: Namers) -> Seats:
    """Return which of the bundles get totals of their own."""
    column = bundle_total.c
    rows = connection.execute(select(column.digest, column.model, column.release, column.named_by)).all()
    present = {(row.digest, row.model, row.release): row.named_by for row in rows}
    present.pop(UNKNOWN_BUNDLE, None)
    new = set(bundles) - present.keys()
    if not new:
        return Seats()
    pushed = connection.execute(select(bundle.c.sha256, bundle.c.model, bundle.c.release)).all()
    registered = {(row.sha256, row.model, row.release) for row in pushed}
    taken = [named_by for key, named_by in present.items() if key not in registered]
    strangers = new - registered
    return _seated(namers(strangers), taken) if strangers else Seats()


def _seated(namers: Mapping[BundleKey, Collection[str]], taken: Collection[str]) -> Seats:
    """Give each bundle a place in the share of that device, of those that named it, which has the most left."""
    used, named_by = Counter(taken), dict[BundleKey, str]()
    for key in sorted(namers):
        device = min(namers[key], key=lambda name: (used[name], name))
        if used.total() < MAX_BUNDLES and used[device] < MAX_BUNDLES_OF_DEVICE:
            named_by[key] = device
            used[device] += 1
    return Seats(frozenset(namers) - named_by.keys(), named_by)


def _beyond(strangers: set[str], room: int) -> frozenset[str]:
    return frozenset(sorted(strangers)[max(room, 0) :])
