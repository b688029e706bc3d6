"""Which files devices may have to fetch: the one place that decides what the broker is offered, and what leaves it."""

import json

from sqlalchemy import Connection, select

from dsops.states import Rollout
from dsops_controller.db import tables

RETAINED_BYTES = 256_000_000
"""Default of what all files together may come to: the broker keeps them in memory."""


def wanted_files(connection: Connection) -> dict[str, int]:
    """Return the files whose chunks the broker should hold, digest to length in bytes.

    A bundle is wanted while a rollout of it has not ended, any device's desired state names it, or it is a challenger;
    a delta while a rollout of the bundle that it makes has not ended: who comes back later asks for its chunks itself.
    """
    bundle, wanted = tables.bundle.c, wanted_bundles(connection)
    rows = connection.execute(select(bundle.sha256, bundle.length_bytes)).all()
    bundles = {row.sha256: row.length_bytes for row in rows if row.sha256 in wanted}
    return bundles | _deltas(connection, _rolled(connection))


def wanted_bundles(connection: Connection) -> set[str]:
    """Return the digests of the bundles of open rollouts, of desired states, and of challengers."""
    slots = connection.execute(select(tables.desired.c.slots).distinct()).scalars()
    desired = {slot["sha256"] for text in slots for slot in json.loads(text).values()}
    challengers = connection.execute(select(tables.challenger.c.bundle_sha256).distinct()).scalars()
    return _rolled(connection) | desired | set(challengers)


def _rolled(connection: Connection) -> set[str]:
    final = [state.value for state in Rollout if state.is_final]
    query = select(tables.rollout.c.bundle_sha256).where(tables.rollout.c.state.not_in(final))
    return set(connection.execute(query).scalars())


def _deltas(connection: Connection, targets: set[str]) -> dict[str, int]:
    delta = tables.delta.c
    made = select(delta.sha256, delta.target_sha256, delta.length_bytes).where(delta.sha256.is_not(None))
    return {row.sha256: row.length_bytes for row in connection.execute(made) if row.target_sha256 in targets}
