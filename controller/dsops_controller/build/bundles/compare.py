"""What changed between two bundles. Pure: values in, values out.

It answers what a person asks before an update: is the interface the same, is it better, does the drift monitor start
anew, and what does it cost over the air.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from dsops.bundle import bundle_index
from dsops.golden import GoldenSet
from dsops.manifest import Manifest
from dsops.profile import Profile
from dsops_controller.build.bundles.compare_profile import SignalChange, compare_profiles
from dsops_controller.build.bundles.compare_size import UpdateSize, delta_size, update_size
from dsops_controller.build.bundles.compare_weights import WeightChange, compare_weights
from dsops_controller.build.bundles.payload import read_payload
from dsops_controller.build.golden import array_of
from dsops_controller.deltas.matching import BundleBytes

_REPORTED = ("metrics", "labels", "blobs")
"""Parts of a manifest that have a place of their own in the report."""


@dataclass(frozen=True)
class Contents:
    """A bundle in memory: its file, its manifest and its blobs, decrypted if they are sealed."""

    data: bytes
    manifest: Manifest
    blobs: Mapping[str, bytes]


@dataclass(frozen=True)
class Change:
    """A value before and after; None where it was not there."""

    where: str
    before: object
    after: object

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON; two numbers have a difference as well."""
        found = {"where": self.where, "before": self.before, "after": self.after}
        if isinstance(self.before, int | float) and isinstance(self.after, int | float):
            found["difference"] = self.after - self.before
        return found


@dataclass(frozen=True)
class LabelChange:
    """How the labels differ; ``is_reordered`` says that some stand for other scores than before."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    is_reordered: bool

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {"added": list(self.added), "removed": list(self.removed), "reordered": self.is_reordered}


@dataclass(frozen=True)
class GoldenChange:
    """How the golden inputs differ.

    Attributes:
        before: Their number in the older bundle.
        after: Their number in the newer one.
        shared: Frames that are in both.
        largest: Largest difference between the expected outputs of a shared frame; None without shared frames or when
            the outputs have another form.
    """

    before: int
    after: int
    shared: int
    largest: float | None

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "before": self.before,
            "after": self.after,
            "shared": self.shared,
            "largest_difference": self.largest,
        }


@dataclass(frozen=True)
class Comparison:
    """Everything that changed; empty parts did not."""

    is_equal: bool
    fields: tuple[Change, ...]
    metrics: tuple[Change, ...]
    labels: LabelChange
    operators: tuple[Change, ...]
    weights: tuple[WeightChange, ...]
    profile: tuple[SignalChange, ...]
    golden: GoldenChange
    blobs: tuple[Change, ...]
    size: UpdateSize

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "equal": self.is_equal,
            "fields": [change.as_dict() for change in self.fields],
            "metrics": [change.as_dict() for change in self.metrics],
            "labels": self.labels.as_dict(),
            "operators": [change.as_dict() for change in self.operators],
            "weights": [change.as_dict() for change in self.weights],
            "profile": [change.as_dict() for change in self.profile],
            "golden": self.golden.as_dict(),
            "blobs": [change.as_dict() for change in self.blobs],
            "update": self.size.as_dict(),
        }


def compare(old: Contents, new: Contents) -> Comparison:
    """Return what changed.

    Raises:
        InvalidModel: A payload is damaged.
        MalformedBundle: A profile or golden inputs are damaged, or a bundle is longer than can be sent.
    """
    before, after = old.manifest, new.manifest
    old_payload, new_payload = old.blobs[before.payload], new.blobs[after.payload]
    earlier, later = read_payload(old_payload), read_payload(new_payload)
    delta = delta_size(BundleBytes(old.data, before), BundleBytes(new.data, after))
    return Comparison(
        is_equal=old.data == new.data,
        fields=_differences(dict(_facts(before)), dict(_facts(after))),
        metrics=_differences(before.metrics, after.metrics),
        labels=_labels(before.labels, after.labels),
        operators=_differences(earlier.operators, later.operators),
        weights=compare_weights(earlier, old_payload, later, new_payload),
        profile=compare_profiles(Profile.decode(old.blobs[before.profile]), Profile.decode(new.blobs[after.profile])),
        golden=_golden(GoldenSet.decode(old.blobs[before.golden]), GoldenSet.decode(new.blobs[after.golden])),
        blobs=_blobs(before, after),
        size=update_size(bundle_index(old.data), bundle_index(new.data), delta),
    )


def _facts(manifest: Manifest) -> Iterator[tuple[str, object]]:
    for key, value in manifest.model_dump(mode="json", exclude=set(_REPORTED)).items():
        yield from _flatten(key, value)


def _flatten(where: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield single values with dotted keys; things in a list go by their name, where they have one."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(f"{where}.{key}", inner)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value, 1):
            name = next((item[key] for key in ("name", "input", "blob") if key in item), place)
            yield from _flatten(f"{where}.{name}", {"place": place} | dict(item))
    else:
        yield where, value


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> tuple[Change, ...]:
    keys = dict.fromkeys((*before, *after))
    changes = (Change(key, before.get(key), after.get(key)) for key in keys)
    return tuple(change for change in changes if change.before != change.after)


def _labels(before: tuple[str, ...], after: tuple[str, ...]) -> LabelChange:
    kept_before = [label for label in before if label in set(after)]
    kept_after = [label for label in after if label in set(before)]
    moved = kept_before != kept_after or any(before.index(label) != after.index(label) for label in kept_after)
    return LabelChange(
        added=tuple(label for label in after if label not in set(before)),
        removed=tuple(label for label in before if label not in set(after)),
        is_reordered=moved,
    )


def _golden(before: GoldenSet, after: GoldenSet) -> GoldenChange:
    rows = {frame: row for row, frame in enumerate(_frames(before))}
    shared = [(rows[frame], row) for row, frame in enumerate(_frames(after)) if frame in rows]
    forms = [[(t.name, t.dtype, t.shape[1:]) for t in golden.outputs] for golden in (before, after)]
    if not shared or forms[0] != forms[1]:
        return GoldenChange(len(before), len(after), len(shared), None)
    old_rows, new_rows = (list(rows) for rows in zip(*shared, strict=True))
    largest = 0.0
    for a, b in zip(before.outputs, after.outputs, strict=True):
        distance = np.abs(array_of(a)[old_rows].astype(np.float64) - array_of(b)[new_rows])
        largest = max(largest, float(np.nan_to_num(distance, nan=np.inf).max(initial=0.0)))
    return GoldenChange(len(before), len(after), len(shared), largest if np.isfinite(largest) else None)


def _frames(golden: GoldenSet) -> list[tuple[bytes, ...]]:
    """Return each frame as the bytes of its inputs."""
    every = [array_of(tensor) for tensor in golden.inputs]
    return [tuple(values[row].tobytes() for values in every) for row in range(len(golden))]


def _blobs(before: Manifest, after: Manifest) -> tuple[Change, ...]:
    old = {blob.name: blob for blob in before.blobs}
    new = {blob.name: blob for blob in after.blobs}
    names = (name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name))
    return tuple(
        Change(name, old[name].size_bytes if name in old else None, new[name].size_bytes if name in new else None)
        for name in names
    )
