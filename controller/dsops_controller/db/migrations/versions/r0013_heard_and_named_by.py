"""When the drift of a model on a device was last heard of; which device named a bundle that nobody pushed."""

import sqlalchemy as sa
from alembic import op

revision = "r0013"
down_revision = "r0012"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the columns: what was told before was heard when the device said so, and is in nobody's share."""
    for table in ("drift_state", "drift_newest"):
        op.add_column(table, sa.Column("heard_ms", _BIG, nullable=False, server_default="0"))
    op.execute("UPDATE drift_state SET heard_ms = since_ms")
    op.execute("UPDATE drift_newest SET heard_ms = time_ms")
    op.add_column("bundle_total", sa.Column("named_by", sa.String(64), nullable=False, server_default=""))
