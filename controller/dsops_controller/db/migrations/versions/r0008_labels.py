"""Labels, data sets made of them, erased samples, and requests to train anew."""

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the tables."""
    _labels()
    _datasets()
    _retraining()


def _labels() -> None:
    """Add what labellers say."""
    op.create_table(
        "label_set",
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True),
        sa.Column("scale", sa.String(16), nullable=False),
        sa.Column("classes", sa.Text(), nullable=False),
        sa.Column("guideline", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_ms", _BIG, nullable=False),
    )
    op.create_table(
        "labelled_sample",
        sa.Column("sample", sa.String(128), primary_key=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("site", sa.String(64), nullable=False, server_default=""),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("release", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("predicted", sa.Text(), nullable=False),
        sa.Column("time_ms", _BIG, nullable=False),
    )
    op.create_index("labelled_sample_by_model", "labelled_sample", ["model"])
    op.create_table(
        "label",
        sa.Column("id", _BIG, primary_key=True, autoincrement=True),
        sa.Column("sample", sa.String(128), sa.ForeignKey("labelled_sample.sample"), nullable=False),
        sa.Column("labeller", sa.String(80), nullable=False),
        sa.Column("label", sa.String(256), nullable=False),
        sa.Column("set_version", sa.Integer(), nullable=False),
        sa.Column("time_ms", _BIG, nullable=False),
        sa.Column("stored_ms", _BIG, nullable=False),
        sa.Column("source", sa.String(160), nullable=False, server_default=""),
        sqlite_autoincrement=True,
    )
    op.create_index("label_by_sample", "label", ["sample", "labeller", "set_version", "time_ms"], unique=True)
    op.create_table(
        "erased_sample",
        sa.Column("sample", sa.String(128), primary_key=True),
        sa.Column("reason", sa.String(200), nullable=False),
        sa.Column("erased_ms", _BIG, nullable=False),
    )


def _datasets() -> None:
    """Add data sets and their exports."""
    op.create_table(
        "dataset",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("lake_version", _BIG, nullable=False),
        sa.Column("set_version", sa.Integer(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("records", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
    )
    op.create_index("dataset_by_digest", "dataset", ["digest"])
    op.create_table(
        "pseudonym_secret",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "dataset_export",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("split", sa.String(16), nullable=False),
        sa.Column("form", sa.String(16), nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
    )


def _retraining() -> None:
    """Add requests to train anew, and how each is handed over."""
    op.create_table(
        "retraining",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("dataset", sa.String(80), nullable=False, server_default=""),
        sa.Column("dataset_digest", sa.String(64), nullable=False, server_default=""),
        sa.Column("bundle_sha256", sa.String(64), nullable=False, server_default=""),
        sa.Column("note", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_ms", _BIG, nullable=False),
        sa.Column("updated_ms", _BIG, nullable=False),
    )
    op.create_index("retraining_by_model", "retraining", ["model", "created_ms"])
    op.create_table(
        "retraining_delivery",
        sa.Column("retraining", sa.String(64), sa.ForeignKey("retraining.id"), primary_key=True),
        sa.Column("adapter", sa.String(63), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("next_ms", _BIG, nullable=False),
        sa.Column("error", sa.Text(), nullable=False, server_default=""),
    )
