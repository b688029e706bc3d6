"""How many notices of a rule a webhook may get, and which alerts one notice tells of."""

import sqlalchemy as sa
from alembic import op

revision = "r0012"
down_revision = "r0011"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add them."""
    op.add_column("alert_delivery", sa.Column("batch", sa.String(32)))
    op.create_index("alert_delivery_by_batch", "alert_delivery", ["batch"])
    op.create_table(
        "alert_pace",
        sa.Column("hook", sa.String(63), primary_key=True),
        sa.Column("rule", sa.String(128), primary_key=True),
        sa.Column("spare", sa.Float, nullable=False),
        sa.Column("time_ms", _BIG, nullable=False),
    )
