"""How good labels are: who agrees with whom, on which classes not, and on which samples. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from dsops_controller.dataops.labels.agreement import Estimate, Scale, cohen_kappa, krippendorff_alpha

ENOUGH = 0.80
"""A class whose kappa may be lower than this (lower end of its 95 % interval) is listed."""

Given = Mapping[str, Mapping[str, str]]
"""Labels by sample and labeller."""


@dataclass(frozen=True, slots=True)
class PairQuality:
    """How two labellers agree on the samples that both labelled."""

    first: str
    second: str
    agreed: int
    kappa: Estimate


@dataclass(frozen=True, slots=True)
class Confusion:
    """Two labels that were given to the same samples."""

    label: str
    instead: str
    samples: int


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """How labellers agree on one class against all others.

    Attributes:
        name: The class.
        kappa: Of "this class, or not".
        is_listed: Whether the lower end of kappa is below :data:`ENOUGH`: say better what the class is, and label its
            samples again.
        confusions: What was said instead, the most frequent first.
    """

    name: str
    kappa: Estimate
    is_listed: bool
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One sample on which labellers disagree."""

    sample: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the labels of a model's samples are.

    Attributes:
        scale: What the difference of two labels means.
        samples: Labelled samples.
        twice: Of those, samples with two labellers or more: agreement is known of these only.
        alpha: Krippendorff's alpha over all labellers; None when labels of an interval or ratio scale are no numbers.
        pairs: Each two labellers with a sample in common.
        classes: Each class that was given to a sample with two labellers, in order; empty on a scale of numbers.
        disagreements: The samples on which labellers disagree.
    """

    scale: Scale
    samples: int
    twice: int
    alpha: Estimate
    pairs: tuple[PairQuality, ...]
    classes: tuple[ClassQuality, ...]
    disagreements: tuple[Disagreement, ...]

    @property
    def listed(self) -> tuple[str, ...]:
        """Names of the classes that are not agreed on well enough."""
        return tuple(one.name for one in self.classes if one.is_listed)


def quality(given: Given, classes: Sequence[str], scale: Scale, *, enough: float = ENOUGH) -> Quality:
    """Return how good labels are.

    Args:
        given: Labels by sample and labeller.
        classes: The classes in order; empty when labels are numbers.
        scale: What the difference of two labels means.
        enough: Which lower end of kappa is good enough.
    """
    both = {sample: labels for sample, labels in given.items() if len(labels) >= 2}
    disagreed = {sample: labels for sample, labels in both.items() if len(set(labels.values())) > 1}
    return Quality(
        scale=scale,
        samples=len(given),
        twice=len(both),
        alpha=krippendorff_alpha(_numbered(both, classes, scale), scale),
        pairs=_pairs(both),
        classes=_classes(both, classes, enough) if scale in (Scale.NOMINAL, Scale.ORDINAL) else (),
        disagreements=tuple(Disagreement(sample, disagreed[sample]) for sample in sorted(disagreed)),
    )


def _numbered(given: Given, classes: Sequence[str], scale: Scale) -> list[list[float]]:
    if scale in (Scale.INTERVAL, Scale.RATIO):
        return [[float(label) for label in labels.values()] for labels in given.values()]
    others = sorted({label for labels in given.values() for label in labels.values()} - set(classes))
    place = {name: float(number) for number, name in enumerate([*classes, *others])}
    return [[place[label] for label in labels.values()] for labels in given.values()]


def _pairs(given: Given) -> tuple[PairQuality, ...]:
    tables: defaultdict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for labels in given.values():
        for first, second in combinations(sorted(labels), 2):
            tables[first, second][labels[first], labels[second]] += 1
    return tuple(
        PairQuality(*names, sum(n for (a, b), n in table.items() if a == b), cohen_kappa(table))
        for names, table in sorted(tables.items())
    )


def _classes(given: Given, classes: Sequence[str], enough: float) -> tuple[ClassQuality, ...]:
    """Return each class's quality; a sample counts once, spread evenly over the pairs of its labellers."""
    pooled: defaultdict[tuple[str, str], float] = defaultdict(float)
    for labels in given.values():
        pairs = list(combinations(sorted(labels), 2))
        for first, second in pairs:
            pooled[labels[first], labels[second]] += 1 / len(pairs)
    used = {name for pair in pooled for name in pair}
    order = [name for name in classes if name in used] + sorted(used - set(classes))
    confused = Counter(frozenset(pair) for pair in _confused(given))
    return tuple(_class(name, pooled, confused, enough) for name in order)


def _confused(given: Given) -> list[tuple[str, str]]:
    """Return each two labels that one sample has, once a sample."""
    return [pair for labels in given.values() for pair in combinations(sorted(set(labels.values())), 2)]


def _class(
    name: str, pooled: Mapping[tuple[str, str], float], confused: Mapping[frozenset[str], int], enough: float
) -> ClassQuality:
    table: defaultdict[tuple[bool, bool], float] = defaultdict(float)
    for (a, b), weight in pooled.items():
        table[a == name, b == name] += weight
    kappa = cohen_kappa(table)
    found = [
        Confusion(name, next(iter(pair - {name})), samples)
        for pair, samples in confused.items()
        if name in pair and len(pair) == 2
    ]
    found.sort(key=lambda one: (-one.samples, one.instead))
    # Where every sample is of the class, kappa is not defined, and nothing speaks against the labels.
    return ClassQuality(name, kappa, kappa.low is not None and kappa.low < enough, tuple(found))
