"""Makes a delta of two bundles."""

from dsops.delta import encode_delta
from dsops_controller.deltas.matching import BundleBytes, match

LEVEL = 9
"""Measured after a fine-tuning (docs/adr/0017-deltas.md): level 19 takes 15 times as long to save 2 % of the bundle."""


def make_delta(old: BundleBytes, new: BundleBytes, level: int = LEVEL) -> bytes:
    """Return the delta that makes ``new`` of ``old``; the same bundles give the same bytes.

    Args:
        old: What devices have.
        new: What they shall have.
        level: zstd's level, 1 to 19.

    Raises:
        DeltaFailed: It would have too many pieces.
    """
    return b"".join(encode_delta(old.data, new.data, match(old, new), level))
