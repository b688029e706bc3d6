"""Makes a delta of two bundles."""

from dsops.delta import encode_delta
from dsops_controller.deltas.matching import BundleBytes, match

BEST_LEVEL, QUICK_LEVEL = 19, 12
BEST_BYTES = 16_000_000
"""Longer bundles are packed quickly: 50 MB take 3 s of processor time instead of 22 (docs/adr/0017-deltas.md)."""


def level_for(length_bytes: int) -> int:
    """Return zstd's level for a bundle of this length."""
    return BEST_LEVEL if length_bytes <= BEST_BYTES else QUICK_LEVEL


def make_delta(old: BundleBytes, new: BundleBytes) -> bytes:
    """Return the delta that makes ``new`` of ``old``; the same bundles give the same bytes.

    Args:
        old: What devices have.
        new: What they shall have.

    Raises:
        DeltaFailed: It would have too many pieces.
    """
    return b"".join(encode_delta(old.data, new.data, match(old, new), level_for(len(new.data))))
