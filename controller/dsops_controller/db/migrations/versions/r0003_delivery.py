"""Deltas, what the broker was offered, sites and their budgets, pardons, and what deployments wait for."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables; deployments tell what their devices wait for, and which report they show."""
    op.create_table(
        "delta",
        sa.Column("base_sha256", sa.String(64), primary_key=True),
        sa.Column("target_sha256", sa.String(64), primary_key=True),
        sa.Column("sha256", sa.String(64)),
        sa.Column("length_bytes", _BIG, nullable=False),
        sa.Column("index_sha256", sa.String(64)),
        sa.Column("withheld", sa.String(100), nullable=False, server_default=""),
        sa.Column("created_ms", _BIG, nullable=False),
    )
    op.create_table(
        "seeded",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("length_bytes", _BIG, nullable=False),
        sa.Column("seeded_ms", _BIG, nullable=False),
    )
    op.create_table(
        "site",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("bytes_per_s", _BIG, nullable=False, server_default="0"),
        sa.Column("bytes_per_day", _BIG, nullable=False, server_default="0"),
        sa.Column("devices", _BIG, nullable=False, server_default="0"),
        sa.Column("updated_ms", _BIG, nullable=False),
    )
    op.create_table(
        "pardon",
        sa.Column("device", sa.String(64), sa.ForeignKey("device.id"), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("created_ms", _BIG, nullable=False),
    )
    op.add_column("deployment", sa.Column("waiting", sa.String(200), nullable=False, server_default=""))
    op.add_column("deployment", sa.Column("waiting_since_ms", _BIG))
    op.add_column("deployment", sa.Column("waited_ms", _BIG, nullable=False, server_default="0"))
    op.add_column("deployment", sa.Column("counter", _BIG, nullable=False, server_default="0"))
