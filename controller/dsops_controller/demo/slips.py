"""Releases that somebody should not have made, and the same one again: bundles made of another bundle's parts."""

from pathlib import Path

from dsops.bundle import Bundle, describe_blobs, encode_bundle
from dsops.files import write_atomically
from dsops.manifest import Manifest

FUTURE_LITERT = "99"
"""A runtime that no device has."""


def permute_labels(good: Path, bad: Path, release: int) -> None:
    """Write a release with its labels in another order, as a slip in a packaging script leaves it."""
    labels = Bundle.open(good).manifest.labels
    _write(good, bad, release=release, labels=(*labels[1:], labels[0]))


def need_future_runtime(good: Path, bad: Path, release: int) -> None:
    """Write a release that needs a runtime which no device has."""
    needs = Bundle.open(good).manifest.compatibility.model_copy(update={"min_litert": FUTURE_LITERT})
    _write(good, bad, release=release, compatibility=needs)


def number_anew(good: Path, again: Path, release: int) -> None:
    """Write a release that differs in its number only."""
    _write(good, again, release=release)


def _write(old: Path, new: Path, **changes: object) -> None:
    opened = Bundle.open(old)
    blobs = {blob.name: opened.read(blob.name) for blob in opened.manifest.blobs}
    fields = opened.manifest.model_dump() | {"blobs": describe_blobs(blobs)} | changes
    write_atomically(new, encode_bundle(Manifest.model_validate(fields), blobs))
