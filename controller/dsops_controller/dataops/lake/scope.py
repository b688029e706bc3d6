"""Which rows a query asks for, as SQL for the file statistics of a table and as parameters of a statement."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Scope:
    """Bounds on rows; ``None`` means any.

    Attributes:
        since: Rows that began at this time or later.
        until: Rows that began before it.
        model: Rows of this model; only for tables that have a column of this name. Likewise ``device``.
    """

    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    device: str | None = None

    def params(self) -> dict[str, Any]:
        """Return values for ``$since``, ``$until``, ``$model`` and ``$device``."""
        return {
            "since": self.since or EPOCH,
            "until": self.until or END,
            "model": self.model,
            "device": self.device,
        }

    def predicate(self) -> str:
        """Return the bounds as SQL with literals; empty when there are none. Partitions come first: they cost nothing.

        A record is filed under its own day or that of its arrival (:func:`.rows.partition_day`), so both are bounded.
        """
        terms = [f"{name} = {_text(value)}" for name in ("model", "device") if (value := getattr(self, name))]
        if self.since is not None:
            terms += [f"day >= '{self.since.astimezone(UTC):%Y-%m-%d}'", f"time >= '{_moment(self.since)}'"]
        if self.until is not None:
            terms += [f"day <= '{self.until.astimezone(UTC):%Y-%m-%d}'", f"time < '{_moment(self.until)}'"]
        return " and ".join(terms)


EVERYTHING = Scope()


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
