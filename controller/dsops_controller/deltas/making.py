"""Makes a delta of two bundles."""

from dsops.delta import encode_delta
from dsops_controller.deltas.matching import BundleBytes, match

LEVEL = 9
WORTH = 0.6
"""A delta is offered when it has at most this share of the newer bundle's bytes: it saves at least 40 %."""


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


def is_worth(delta_bytes: int, bundle_bytes: int) -> bool:
    """Return whether a delta saves enough to be offered."""
    return delta_bytes <= WORTH * bundle_bytes
