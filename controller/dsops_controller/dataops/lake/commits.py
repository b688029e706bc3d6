"""How this program commits to Delta tables."""

from typing import Any

from arro3.core import Schema
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, WriterProperties
from deltalake.exceptions import DeltaError

from dsops_controller.dataops.lake import delta_log
from dsops_controller.dataops.lake.columns import LakeTable

NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
_ZSTD = WriterProperties(compression="ZSTD", compression_level=1)
_TENSORS = WriterProperties(compression="ZSTD", compression_level=1, max_row_group_size=500)
MARKED = {delta_log.MARK: "true"}
"""Metadata of our own commits, by which a start after a power cut knows them."""
OURS = CommitProperties(custom_metadata=MARKED)


def properties(table: str) -> WriterProperties:
    """Return how a table's files are written: samples in small groups, so that few are read for few."""
    return _TENSORS if table == LakeTable.SAMPLES else _ZSTD


def open_or_create(uri: str, options: dict[str, str] | None, schema: Schema, **creation: Any) -> DeltaTable:  # noqa: ANN401
    """Return the table at ``uri``, made when absent; of two programs that make it at once, one does.

    Raises:
        DeltaError: It cannot be read or made.
    """
    if not DeltaTable.is_deltatable(uri, options):
        try:
            return DeltaTable.create(
                uri, schema, storage_options=options, post_commithook_properties=NO_HOOKS, **creation
            )
        except DeltaError:
            if not DeltaTable.is_deltatable(uri, options):
                raise
    return DeltaTable(uri, storage_options=options)
