"""Challengers: which bundle is compared with the champion on which device, and how."""

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "challenger",
        sa.Column("device", sa.String(64), sa.ForeignKey("device.id"), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("bundle_sha256", sa.String(64), sa.ForeignKey("bundle.sha256"), nullable=False),
        sa.Column("deployment", sa.String(32), nullable=False),
        sa.Column("mode", sa.String(8), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("cpu_share", sa.Float(), nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
    )
    op.create_index("challenger_by_bundle", "challenger", ["bundle_sha256"])
