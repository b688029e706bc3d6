"""Certificates, preauthorised devices, strangers, content keys, and the chain of reports."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables and columns; devices of before keep their keys, and their certificates count until they end."""
    _columns()
    _tables()


def _columns() -> None:
    op.add_column("device", sa.Column("content_public_key", sa.LargeBinary))
    op.add_column("device", sa.Column("asked_ms", _BIG))
    op.add_column("device", sa.Column("origin", sa.String(64), nullable=False, server_default=""))
    op.create_index("device_by_state", "device", ["state"])
    op.add_column("observed", sa.Column("digest", sa.String(64), nullable=False, server_default=""))


def _tables() -> None:
    op.create_table(
        "certificate",
        sa.Column("serial", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(64), sa.ForeignKey("device.id"), nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("issued_ms", _BIG, nullable=False),
        sa.Column("expires_ms", _BIG, nullable=False),
        sa.Column("used_ms", _BIG),
        sa.Column("revoked_ms", _BIG),
        sa.Column("reason", sa.String(32), nullable=False, server_default=""),
    )
    op.create_index("certificate_by_device", "certificate", ["device"])
    op.create_index("certificate_by_revocation", "certificate", ["revoked_ms"])
    op.create_table(
        "preauthorised",
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("key_sha256", sa.String(64), nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
        sa.Column("used_ms", _BIG),
    )
    op.create_table(
        "content_key",
        sa.Column("bundle_sha256", sa.String(64), primary_key=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
    )
    _carry_over()


def _carry_over() -> None:
    """Enter the newest certificate of every device; its end is not known here, 90 days was the longest life."""
    op.execute(
        "INSERT INTO certificate (serial, device, public_key, issued_ms, expires_ms, reason) "
        "SELECT serial, id, public_key, created_ms, created_ms + 7776000000, '' FROM device "
        "WHERE serial IS NOT NULL AND public_key IS NOT NULL"
    )
