"""Tables of alerts and of the notices about them, in the database of :mod:`dsops_controller.db.tables`."""

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, LargeBinary, String, Table, Text

from dsops_controller.db.tables import BIG, metadata

alert = Table(
    "alert",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("open_key", String(200), unique=True),  # what it is about, while it lasts
    Column("kind", String(32), nullable=False),
    Column("model", String(63), nullable=False),
    Column("device", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("summary", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("opened_ms", BIG, nullable=False),
    Column("seen_ms", BIG, nullable=False),  # when its cause was there last
    Column("resolved_ms", BIG),
    Column("ended", String(16)),  # why it is resolved
    Index("alert_by_opening", "opened_ms"),
)

alert_delivery = Table(
    "alert_delivery",
    metadata,
    Column("alert", String(32), ForeignKey("alert.id"), primary_key=True),
    Column("notice", String(16), primary_key=True),  # opened or resolved
    Column("hook", String(63), primary_key=True),  # its name in controller.toml
    Column("body", LargeBinary, nullable=False),  # the envelope, as it was when it was written
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_ms", BIG, nullable=False),
    Column("error", Text, nullable=False, server_default=""),
    Column("batch", String(32)),  # the same in rows that are told in one notice
    Index("alert_delivery_by_time", "state", "next_ms"),
    Index("alert_delivery_by_batch", "batch"),
)

alert_pace = Table(
    "alert_pace",
    metadata,
    Column("hook", String(63), primary_key=True),
    Column("rule", String(128), primary_key=True),  # kind and model
    Column("spare", Float, nullable=False),  # notices that might have gone out at that time
    Column("time_ms", BIG, nullable=False),
)

alert_loss = Table(
    "alert_loss",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("dropped", BIG, nullable=False),
    Column("before", BIG, nullable=False),
    Column("grew_ms", BIG, nullable=False),  # when more were dropped; before: as many had been until then
)
