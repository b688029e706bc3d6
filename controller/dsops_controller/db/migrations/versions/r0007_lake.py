"""The lake: the inbox's own name in its tables."""

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table("inbox_name", sa.Column("name", sa.String(32), primary_key=True))
