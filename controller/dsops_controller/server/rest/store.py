"""The lake: what its tables hold, whether they are whole, and tending it now."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query

from dsops.manifest import Frozen
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.inspection import Level, worst
from dsops_controller.dataops.lake.lake import VACUUM_HOURS
from dsops_controller.dataops.lake.upkeep import Tended
from dsops_controller.server.rest.backend import OPERATOR, Backend

MAX_HOURS = 24 * 366


class TableView(Frozen):
    """What a table holds; ``pinned`` lists versions that something needs, with their owners."""

    table: LakeTable
    version: int
    rows: int
    files: int
    bytes: int
    first_day: date | None
    last_day: date | None
    pinned: tuple[str, ...]


class StoreFindingView(Frozen):
    """One thing that was found, and what to do about it."""

    where: str
    level: Level
    text: str
    hint: str


class StoreCheckView(Frozen):
    """Everything that was found, the worst first; ``level`` is that of the worst."""

    level: Level
    findings: list[StoreFindingView]


class TendedView(Frozen):
    """What was done to a table."""

    table: LakeTable
    files_before: int
    files_after: int
    dropped_rows: int
    removed_files: int


def router(backend: Backend) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/store", tags=["store"])

    @routes.get("/tables")
    def tables() -> list[TableView]:
        return [TableView.model_validate(row, from_attributes=True) for row in backend.inspector.tables()]

    @routes.post("/check")
    def check() -> StoreCheckView:
        found = backend.inspector.check()
        views = [StoreFindingView.model_validate(finding, from_attributes=True) for finding in found]
        return StoreCheckView(level=worst(found), findings=views)

    @routes.post("/unpin", status_code=204)
    def unpin(owner: Annotated[str, Query(min_length=1, max_length=200)]) -> None:
        backend.datasets.unpin(owner, OPERATOR)

    @routes.post("/compact")
    def compact() -> list[TendedView]:
        return _views(backend.lake_upkeep.compact())

    @routes.post("/vacuum")
    def vacuum(hours: Annotated[int, Query(ge=1, le=MAX_HOURS)] = VACUUM_HOURS) -> list[TendedView]:
        return _views([*backend.lake_upkeep.vacuum(hours)])

    @routes.post("/retain")
    def retain() -> list[TendedView]:
        return _views(backend.lake_upkeep.retain())

    return routes


def _views(tended: list[Tended]) -> list[TendedView]:
    return [TendedView.model_validate(row, from_attributes=True) for row in tended]
