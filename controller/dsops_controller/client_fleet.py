"""The part of the client that is about drift, telemetry and alerts of the fleet."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from dsops import ids
from dsops.errors import InvalidInput

Row = dict[str, Any]
Filter = str | int | float | None | Sequence[float]


class FleetCalls(ABC):
    """Calls of :class:`dsops_controller.client.Client`; errors are as there."""

    def drift_of(self, device: str, model: str | None = None) -> list[Row]:
        """Return how drift stands on one device, model by model, with what explains it."""
        rows: list[Row] = self._call("GET", f"/drift/show{_query(device=ids.device_id(device), model=model)}").json()
        return rows

    def drift_top(self, **filters: Filter) -> Row:
        """Return the models and devices that drifted most; filters: model, limit, fdr."""
        return self._json("GET", f"/drift/top{_query(**filters)}")

    def drift_report(self, model: str, **filters: Filter) -> Row:
        """Return a model over a period; filters: since, until (ISO 8601), fdr."""
        return self._json("GET", f"/drift/report{_query(model=model, **filters)}")

    def kpis(self, **filters: Filter) -> list[Row]:
        """Return figures that programs on devices reported; filters: name, model, device, minutes, limit."""
        rows: list[Row] = self._call("GET", f"/kpis{_query(**filters)}").json()
        return rows

    def telemetry_query(self, what: str, **filters: Filter) -> list[Row]:
        """Return rows of telemetry.

        Args:
            what: ``series``, ``quantiles``, ``latest``, ``losses`` or ``heartbeats``.
            filters: model, release, device, since, until (ISO 8601), of, quantile (several), bucket_s.
        """
        rows: list[Row] = self._call("GET", f"/telemetry/{what}{_query(**filters)}").json()
        return rows

    def telemetry_arrow(self, what: str, **filters: Filter) -> bytes:
        """Return the same rows as an Arrow file."""
        return self._call("GET", f"/telemetry/{what}{_query(**filters, format='arrow')}").content

    def alerts(self, **filters: Filter) -> list[Row]:
        """Return open alerts, newest first; filters: kind, every (those that are over too), limit."""
        rows: list[Row] = self._call("GET", f"/alerts{_query(**filters)}").json()
        return rows

    def alert(self, alert: str) -> Row:
        """Return one alert by its id, or by the beginning of it."""
        return self._json("GET", f"/alerts/{_part(alert)}")

    def retry_alert(self, alert: str) -> Row:
        """Hand notices of an alert over again that were given up."""
        return self._json("POST", f"/alerts/{_part(alert)}/retry")

    def retry_alerts(self, webhook: str | None = None) -> Row:
        """Hand every notice over again that was given up, or those for one webhook."""
        return self._json("POST", f"/alerts/retry{_query(webhook=webhook)}")

    @abstractmethod
    def _json(self, method: str, path: str) -> Row: ...

    @abstractmethod
    def _call(self, method: str, path: str) -> httpx.Response: ...


def _part(name: str) -> str:
    if name in {"", ".", ".."}:
        raise InvalidInput(f"{name!r} is not an id", hint="give the id that the list shows")
    return quote(name, safe="")


def _query(**filters: Filter) -> str:
    given = {name: value for name, value in filters.items() if value is not None}
    return f"?{urlencode(given, doseq=True)}" if given else ""
