"""What records are worth: which stream they travel in, which go first when room is short, how long they are kept. Pure.

Events travel in a stream of their own, so that what happened is not behind a week of figures. Within the spool the
least worth goes first: a sample before a host's figures, those before what a model did, events last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from google.protobuf.message import DecodeError

from dsops.api.v1.telemetry_pb2 import TelemetryRecord

Kind = Literal["events", "telemetry", "samples"]
"""A stream of the spool; events and telemetry are both telemetry to the store."""
KINDS: tuple[Kind, ...] = get_args(Kind)

DAY_S = 86_400.0


@dataclass(frozen=True)
class Worth:
    """How one kind of record is treated.

    Attributes:
        stream: In which it travels.
        keep_s: How long it waits for the store, in seconds that the agent runs.
    """

    stream: Kind
    keep_s: float


WORTH: Mapping[str, Worth] = {
    "sample": Worth("samples", 30 * DAY_S),
    "unknown": Worth("telemetry", 7 * DAY_S),
    "host": Worth("telemetry", 14 * DAY_S),
    "heartbeat": Worth("telemetry", 14 * DAY_S),
    "kpi": Worth("telemetry", 30 * DAY_S),
    "comparison": Worth("telemetry", 30 * DAY_S),
    "model": Worth("telemetry", 60 * DAY_S),
    "drift": Worth("telemetry", 60 * DAY_S),
    "event": Worth("events", 90 * DAY_S),
}
"""Kinds of records, the least worth first."""

WHATS = tuple(WORTH)


def what_is(kind: Kind, data: bytes) -> str:
    """Return what a serialized record of a stream is: a key of :data:`WORTH`."""
    if kind == "samples":
        return "sample"
    try:
        return TelemetryRecord.FromString(data).WhichOneof("kind") or "unknown"
    except DecodeError:
        return "unknown"


def no_more_than(what: str) -> tuple[str, ...]:
    """Return the kinds that may go for one of ``what``, the least worth first: everything up to itself."""
    return WHATS[: WHATS.index(what) + 1]
