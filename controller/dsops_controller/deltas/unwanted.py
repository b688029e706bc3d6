"""Deltas that nobody can use any more, inside a transaction of the caller."""

import json

from sqlalchemy import Connection, delete, select

from dsops.states import Device
from dsops_controller.db import tables
from dsops_controller.rollout.wanted import wanted_bundles

_delta = tables.delta.c


def forget_unwanted(connection: Connection) -> None:
    """Forget each delta whose base no device has, or whose target nobody wants.

    A device has what it reported as active last, and may have what its desired state or an open rollout names; who is
    gone for good has nothing.
    """
    wanted = wanted_bundles(connection)
    bases = wanted | _active(connection)
    for row in connection.execute(select(tables.delta)).all():
        if row.base_sha256 in bases and row.target_sha256 in wanted:
            continue
        pair = (_delta.base_sha256 == row.base_sha256) & (_delta.target_sha256 == row.target_sha256)
        connection.execute(delete(tables.delta).where(pair))


def _active(connection: Connection) -> set[str]:
    said, known = tables.observed.c, tables.device.c
    there = select(said.report).join(tables.device, known.id == said.device).where(known.state != Device.DECOMMISSIONED)
    models = (json.loads(report).get("models", {}) for report in connection.execute(there).scalars())
    return {state["active"] for reported in models for state in reported.values() if state.get("active")}
