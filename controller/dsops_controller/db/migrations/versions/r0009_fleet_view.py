"""What the fleet's drift, figures and alerts are told from."""

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables."""
    _newest()
    _alerts()


def _newest() -> None:
    op.create_table(
        "drift_newest",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("time_ms", _BIG, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since_ms", _BIG, nullable=False),
        sa.Column("onset_ms", _BIG, nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("frames", _BIG, nullable=False),
        sa.Column("log_e", sa.Float(), nullable=False),
        sa.Column("log_e_before", sa.Float(), nullable=False),
        sa.Column("epoch_ms", _BIG, nullable=False),
        sa.Column("epoch_frames", _BIG, nullable=False),
        sa.Column("skew", sa.String(16), nullable=False),
        sa.Column("skew_facts", sa.Text(), nullable=False),
        sa.Column("signals", sa.Text(), nullable=False),
    )
    op.create_table(
        "heartbeat",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("time_ms", _BIG, nullable=False),
        sa.Column("received_ms", _BIG, nullable=False),
        sa.Column("interval_ms", _BIG, nullable=False),
        sa.Column("uptime_s", _BIG, nullable=False),
        sa.Column("agent_version", sa.String(64), nullable=False),
        sa.Column("waiting", sa.Text(), nullable=False),
    )
    op.create_table(
        "bundle_total",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("release", sa.Integer(), primary_key=True),
        sa.Column("since_ms", _BIG, nullable=False),
        sa.Column("updated_ms", _BIG, nullable=False),
        sa.Column("answers", _BIG, nullable=False),
        sa.Column("errors", _BIG, nullable=False),
        sa.Column("unobserved", _BIG, nullable=False),
        sa.Column("latency", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Text(), nullable=False),
    )


def _alerts() -> None:
    op.create_table(
        "alert",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("open_key", sa.String(200), unique=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("opened_ms", _BIG, nullable=False),
        sa.Column("seen_ms", _BIG, nullable=False),
        sa.Column("resolved_ms", _BIG),
        sa.Index("alert_by_opening", "opened_ms"),
    )
    op.create_table(
        "alert_delivery",
        sa.Column("alert", sa.String(32), sa.ForeignKey("alert.id"), primary_key=True),
        sa.Column("notice", sa.String(16), primary_key=True),
        sa.Column("hook", sa.String(63), primary_key=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_ms", _BIG, nullable=False),
        sa.Column("error", sa.Text(), nullable=False, server_default=""),
        sa.Index("alert_delivery_by_time", "state", "next_ms"),
    )
    op.create_table(
        "alert_loss",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("dropped", _BIG, nullable=False),
        sa.Column("before", _BIG, nullable=False),
        sa.Column("grew_ms", _BIG, nullable=False),
    )
