"""Why a delta is not offered."""

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the reason to each delta."""
    op.add_column("delta", sa.Column("withheld", sa.String(100), nullable=False, server_default=""))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("delta", "withheld")
