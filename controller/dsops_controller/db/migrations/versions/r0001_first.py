"""First schema."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create every table."""
    _fleet()
    _rollouts()
    _reports()


def _fleet() -> None:
    op.create_table(
        "device",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
        sa.Column("serial", sa.String(64)),
        sa.Column("public_key", sa.Text),
        sa.Column("inventory", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("online", sa.Boolean, nullable=False),
        sa.Column("boot_id", sa.String(64)),
        sa.Column("conn_seq", _BIG, nullable=False),
        sa.Column("seen_ms", _BIG),
    )
    op.create_table(
        "enrolment_token",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
        sa.Column("expires_ms", _BIG, nullable=False),
        sa.Column("used_ms", _BIG),
    )
    op.create_table(
        "bundle",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("release", sa.Integer, nullable=False),
        sa.Column("variant", sa.String(32), nullable=False),
        sa.Column("path", sa.String(160), nullable=False, unique=True),
        sa.Column("length_bytes", _BIG, nullable=False),
        sa.Column("index_sha256", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("pushed_ms", _BIG, nullable=False),
    )


def _rollouts() -> None:
    op.create_table(
        "rollout",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("release", sa.Integer, nullable=False),
        sa.Column("bundle_sha256", sa.String(64), sa.ForeignKey("bundle.sha256"), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
        sa.Column("updated_ms", _BIG, nullable=False),
    )
    op.create_table(
        "deployment",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("rollout", sa.String(32), sa.ForeignKey("rollout.id"), nullable=False),
        sa.Column("device", sa.String(64), sa.ForeignKey("device.id"), nullable=False),
        sa.Column("wave", sa.Integer, nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("step", sa.String(24), nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("started_ms", _BIG),
        sa.Column("ended_ms", _BIG),
    )
    op.create_index("deployment_by_rollout", "deployment", ["rollout", "wave"])
    op.create_index("deployment_by_device", "deployment", ["device"])
    op.create_table(
        "desired",
        sa.Column("device", sa.String(64), sa.ForeignKey("device.id"), primary_key=True),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("slots", sa.Text, nullable=False),
        sa.Column("updated_ms", _BIG, nullable=False),
    )


def _reports() -> None:
    op.create_table(
        "observed",
        sa.Column("device", sa.String(64), sa.ForeignKey("device.id"), primary_key=True),
        sa.Column("counter", _BIG, nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("received_ms", _BIG, nullable=False),
    )
    op.create_table(
        "stream",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("stream", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("stored", _BIG, nullable=False),
        sa.Column("produced", _BIG, nullable=False),
        sa.Column("dropped", _BIG, nullable=False),
        sa.Column("updated_ms", _BIG, nullable=False),
    )
    op.create_table(
        "inbox",
        sa.Column("id", _BIG, primary_key=True, autoincrement=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("seqs", sa.LargeBinary, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("received_ms", _BIG, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "device_latest",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("time_ms", _BIG, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
    )
    op.create_table(
        "drift_state",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("release", sa.Integer, nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.Column("frames", _BIG, nullable=False),
        sa.Column("since_ms", _BIG, nullable=False),
        sa.Column("figures", sa.Text, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", _BIG, primary_key=True, autoincrement=True),
        sa.Column("time_ms", _BIG, nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(160), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
