"""Requests for samples: what operators want of which device, and until when."""

import sqlalchemy as sa
from alembic import op

revision = "r0010"
down_revision = "r0009"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "sample_request",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("device", sa.String(64), sa.ForeignKey("device.id"), primary_key=True),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("count", _BIG, nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
        sa.Column("until_ms", _BIG, nullable=False),
    )
