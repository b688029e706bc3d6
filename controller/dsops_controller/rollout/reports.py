"""Takes what devices report into the deployments of a rollout: only what is new, and a bounded number at a time."""

from typing import Any

from sqlalchemy import Connection, Row, select, update

from dsops.messages import ModelState, Observed
from dsops.states import Deployment, deployment_state
from dsops_controller.db import tables

AT_ONCE = 200


def take_reports(connection: Connection, row: Row[Any], now_ms: int, most: int = AT_ONCE) -> int:
    """Let the deployments of a rollout that have not ended say what their devices reported of them.

    Returns:
        How many reports were taken in; ``most`` means that there may be more.
    """
    part, have, device = tables.deployment, tables.observed.c, tables.device.c
    is_new = part.c.counter != have.counter
    has_left = part.c.waiting_since_ms.is_not(None) & ~device.online
    waits: tuple[Any, ...] = (part.c.waiting_since_ms, part.c.waited_ms, device.online)
    joined = part.join(tables.observed, have.device == part.c.device).join(tables.device, device.id == part.c.device)
    is_ours = (part.c.rollout == row.id) & (part.c.state == Deployment.IN_PROGRESS) & (is_new | has_left)
    query = select(part.c.id, have.counter, have.report, *waits).select_from(joined).where(is_ours)
    found = connection.execute(query.limit(most)).all()
    for one in found:
        state = Observed.model_validate_json(one.report).models.get(row.model)
        values: dict[str, object] = {"counter": one.counter}
        if state is not None and state.deployment == one.id:
            values |= _reported(state, now_ms) | _waits(one, state, now_ms)
        elif one.waiting_since_ms is not None:
            values |= _waits(one, ModelState(), now_ms)
        connection.execute(update(part).where(part.c.id == one.id).values(values))
    return len(found)


def has_installed(connection: Connection, row: Row[Any]) -> set[str]:
    """Return the devices of the running wave that are still to be asked and already run the rollout's bundle."""
    part, have = tables.deployment.c, tables.observed.c
    asked = (part.rollout == row.id) & (part.wave == row.wave) & (part.state == Deployment.PENDING)
    query = select(part.device, have.report).join(tables.observed, have.device == part.device)
    named = connection.execute(query.where(asked & have.report.contains(row.bundle_sha256))).all()
    states = {one.device: Observed.model_validate_json(one.report).models.get(row.model) for one in named}
    return {device for device, state in states.items() if _runs(state, row.bundle_sha256)}


def _runs(state: ModelState | None, sha256: str) -> bool:
    return state is not None and state.active == sha256 and state.install.is_final


def _reported(state: ModelState, now_ms: int) -> dict[str, object]:
    code, message = (state.problem.code, state.problem.message) if state.problem else ("", "")
    outcome = deployment_state(state.install, code)
    values: dict[str, object] = {
        "state": outcome,
        "step": state.install,
        "progress": state.progress,
        "code": code,
        "message": message,
    }
    if outcome.is_final:
        values["ended_ms"] = now_ms
    return values


def _waits(part: Row[Any], state: ModelState, now_ms: int) -> dict[str, object]:
    """Return how long a device has waited for its own rules; one that is away waits for nothing that we know of."""
    since, waited = part.waiting_since_ms, part.waited_ms
    if state.waiting and part.online:
        since = now_ms if since is None else since
    elif since is not None:
        since, waited = None, waited + now_ms - since
    return {"waiting": state.waiting, "waiting_since_ms": since, "waited_ms": waited}
