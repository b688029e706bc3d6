"""Why an alert is over."""

import sqlalchemy as sa
from alembic import op

revision = "r0014"
down_revision = "r0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: until now no other end was known than that of the cause."""
    op.add_column("alert", sa.Column("ended", sa.String(16)))
    op.execute("UPDATE alert SET ended = 'over' WHERE state = 'resolved'")
