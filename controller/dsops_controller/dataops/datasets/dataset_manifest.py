"""The manifest of a data set: one line a sample, sorted; its SHA-256 is the data set's digest. Pure.

A line is canonical JSON about one sample, which is named by the SHA-256 of the exact bytes of its tensor, so that who
has the samples and the manifest can check both without asking anybody. Devices stand there under pseudonyms. What is
identical is there once: of equal tensors the oldest.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dsops import strictjson
from dsops.errors import InvalidInput
from dsops_controller.dataops.samples.exports import agreed_label, content_id
from dsops_controller.dataops.samples.sample_reading import FullSample

FORMAT = 1
_SPAN = 1 << 64


class Split(StrEnum):
    """What a sample is for."""

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"


class GroupBy(StrEnum):
    """What stays together in one split: frames of one place are too alike to be apart."""

    SITE = "site"
    """All devices of a site; a device without one is a site of its own."""
    DEVICE = "device"
    """All samples of a device."""


class Labelled(StrEnum):
    """Which label a sample gets when several labellers said something."""

    AGREED = "agreed"
    """That which all of them gave; samples on which they disagree are left out."""
    MAJORITY = "majority"
    """That which more than half of them gave."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of the groups goes to validation and to test, 0 to 1; the rest is for training."""

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        """Check the shares.

        Raises:
            InvalidInput: One is negative, or nothing is left for training.
        """
        if self.validation < 0 or self.test < 0 or self.validation + self.test >= 1:
            raise InvalidInput("the shares leave nothing for training", hint="for example --validation 10 --test 10")


@dataclass(frozen=True, slots=True)
class Policy:
    """How samples become a data set.

    Attributes:
        labelled: Which label counts.
        fewest: Labellers that a sample needs.
        excluded: Classes that are left out, as those that labellers do not agree on.
        group_by: What stays together in one split.
        shares: Of the splits.
    """

    labelled: Labelled = Labelled.AGREED
    fewest: int = 1
    excluded: tuple[str, ...] = ()
    group_by: GroupBy = GroupBy.SITE
    shares: Shares = Shares()

    def label(self, given: Mapping[str, str]) -> str | None:
        """Return the label that a sample gets; None when it gets none, and is left out."""
        if len(given) < self.fewest:
            return None
        chosen = agreed_label(given)
        if chosen is None and self.labelled is Labelled.MAJORITY:
            label, count = Counter(given.values()).most_common(1)[0] if given else ("", 0)
            chosen = label if count * 2 > len(given) else None
        return None if chosen in self.excluded else chosen


@dataclass(frozen=True, slots=True)
class Member:
    """One sample of a data set.

    Attributes:
        record: Its id in the store; not part of the manifest.
        line: Its line in the manifest.
    """

    record: str
    line: Mapping[str, object]

    @property
    def content(self) -> str:
        """SHA-256 of the tensor's bytes."""
        return str(self.line["sample"])

    @property
    def label(self) -> str:
        """The label."""
        return str(self.line["label"])

    @property
    def split(self) -> Split:
        """What it is for."""
        return Split(str(self.line["split"]))


@dataclass(frozen=True, slots=True)
class Left:
    """Samples that were left out: without a label that counts, equal to others, or sealed."""

    unlabelled: int = 0
    duplicates: int = 0
    sealed: int = 0


@dataclass(frozen=True, slots=True)
class Places:
    """What is known of devices: their sites, and the secret of their pseudonyms."""

    sites: Mapping[str, str]
    secret: bytes

    def pseudonym(self, device: str) -> str:
        """Return a name for a device that says nothing of it: equal for equal devices of one controller."""
        return hmac.new(self.secret, device.encode(), hashlib.sha256).hexdigest()[:16]

    def group(self, device: str, by: GroupBy) -> str:
        """Return what a device's samples stay together with."""
        site = self.sites.get(device, "") if by is GroupBy.SITE else ""
        return f"site:{site}" if site else f"device:{self.pseudonym(device)}"


def split_of(group: str, shares: Shares) -> Split:
    """Return the split of a group: by its hash, so the same in every version and whatever else is there."""
    place = int.from_bytes(hashlib.sha256(f"dsops-split:{group}".encode()).digest()[:8], "big") / _SPAN
    if place < shares.test:
        return Split.TEST
    return Split.VALIDATION if place < shares.test + shares.validation else Split.TRAINING


def members(
    samples: Iterable[FullSample], given: Mapping[str, Mapping[str, str]], policy: Policy, places: Places
) -> tuple[list[Member], Left]:
    """Return the members of a data set in the order of its manifest, and what was left out.

    Args:
        samples: Candidates, oldest first.
        given: Labels by sample id and labeller.
        policy: How they become a data set.
        places: What is known of their devices.
    """
    found: dict[str, Member] = {}
    unlabelled = duplicates = sealed = 0
    for sample in samples:
        said = given.get(sample.row.id, {})
        label, content = policy.label(said), content_id(sample.input.data)
        if sample.is_sealed:
            sealed += 1
        elif label is None:
            unlabelled += 1
        elif content in found:
            duplicates += 1
        else:
            found[content] = Member(sample.row.id, _line(sample, said, label, policy, places))
    return [found[content] for content in sorted(found)], Left(unlabelled, duplicates, sealed)


def _line(sample: FullSample, said: Mapping[str, str], label: str, policy: Policy, places: Places) -> dict[str, object]:
    row = sample.row
    group = places.group(row.device, policy.group_by)
    return {
        "sample": content_id(sample.input.data),
        "datatype": sample.input.datatype,
        "shape": list(sample.input.shape),
        "device": places.pseudonym(row.device),
        "site": places.sites.get(row.device, ""),
        "captured_us": round(row.time.timestamp() * 1_000_000),
        "model": row.model,
        "release": row.release,
        "bundle": row.digest,
        "reason": row.reason,
        "inclusion": row.inclusion or None,
        "weight": sample.weight,
        "redaction": sample.redaction,
        "schema": sample.schema,
        "predicted": row.predicted,
        "label": label,
        "labels": {pseudo(who, places): what for who, what in sorted(said.items())},
        "group": group,
        "split": split_of(group, policy.shares).value,
    }


def pseudo(labeller: str, places: Places) -> str:
    """Return a name for a labeller that says nothing of them."""
    return places.pseudonym(f"labeller:{labeller}")


def encode(found: Sequence[Member]) -> bytes:
    """Return the manifest: JSON lines (RFC 8785-like canonical form), each ended by a line feed."""
    return b"".join(strictjson.dumps(dict(member.line)) + b"\n" for member in found)


def decode(manifest: bytes, records: Sequence[str]) -> list[Member]:
    """Return the members of a manifest whose records are known."""
    lines = [json.loads(line) for line in manifest.split(b"\n")[:-1]]
    return [Member(record, line) for record, line in zip(records, lines, strict=True)]


def digest_of(manifest: bytes) -> str:
    """Return a data set's digest."""
    return hashlib.sha256(manifest).hexdigest()


def counts(found: Sequence[Member]) -> dict[str, dict[str, int]]:
    """Return how many samples each class has in each split."""
    table: dict[str, dict[str, int]] = {split.value: {} for split in Split}
    for member in found:
        classes = table[member.split.value]
        classes[member.label] = classes.get(member.label, 0) + 1
    return {split: dict(sorted(classes.items())) for split, classes in table.items()}


@dataclass(frozen=True, slots=True)
class Change:
    """How one data set differs from another: samples by content.

    Attributes:
        added: In the second only.
        removed: In the first only.
        relabelled: In both, with another label: the sample, the label before, the label now.
        moved: In both, in another split.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[tuple[str, str, str], ...]
    moved: tuple[str, ...]


def difference(before: Sequence[Member], after: Sequence[Member]) -> Change:
    """Return how a data set differs from the one before."""
    old, new = ({member.content: member for member in found} for found in (before, after))
    both = sorted(old.keys() & new.keys())
    return Change(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        relabelled=tuple((one, old[one].label, new[one].label) for one in both if old[one].label != new[one].label),
        moved=tuple(one for one in both if old[one].split is not new[one].split),
    )
