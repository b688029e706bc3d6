"""Which cases are covered by labels: classes, sites, and cells of what was predicted and what it was. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dsops_controller.dataops.labels.agreement import wilson
from dsops_controller.dataops.labels.labels import LabelRow

FEWEST = 20
"""Labelled samples below which a case is not covered."""
STALE = timedelta(days=90)
"""Without a label for so long, a case is not covered any more."""


@dataclass(frozen=True, slots=True)
class Case:
    """Labelled samples of one kind.

    Attributes:
        name: The class, the site, or both with a slash.
        samples: Labelled samples.
        right: Of those, samples for which the device said the label.
        share_low: Lower end (Wilson, 95 %) of the kind's share of all labelled samples.
        right_low: Lower end of the share that the device got right.
        newest: When the newest label of the kind was given; None when there is none.
        is_covered: At least :data:`FEWEST` samples, one of them labelled within :data:`STALE`.
    """

    name: str
    samples: int
    right: int
    share_low: float
    right_low: float
    newest: datetime | None
    is_covered: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """Samples of which the device said one thing and labellers another, or the same.

    Attributes:
        share_low: Lower end (Wilson, 95 %) of the cell's share of the samples with this label.
        share_high: Upper end.
    """

    predicted: str
    label: str
    samples: int
    share_low: float
    share_high: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is covered, and what is not.

    Attributes:
        samples: Samples with one label that all their labellers gave.
        disputed: Samples whose labellers disagree; they cover nothing.
        classes: Each class, also one without a sample.
        sites: Each site of the labelled samples.
        class_sites: Each class at each site.
        cells: What was predicted of what, the most frequent first.
    """

    samples: int
    disputed: int
    classes: tuple[Case, ...]
    sites: tuple[Case, ...]
    class_sites: tuple[Case, ...]
    cells: tuple[Cell, ...]

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Names of the classes and sites that are not covered."""
        return tuple(case.name for case in (*self.classes, *self.sites) if not case.is_covered)


def agreed(rows: Iterable[LabelRow]) -> tuple[list[LabelRow], int]:
    """Return one row of each sample whose labellers all say the same (the newest), and how many samples have none."""
    by_sample: defaultdict[str, list[LabelRow]] = defaultdict(list)
    for row in rows:
        by_sample[row.sample].append(row)
    clear = [given for given in by_sample.values() if len({row.label for row in given}) == 1]
    return [max(given, key=lambda row: row.time) for given in clear], len(by_sample) - len(clear)


def coverage(rows: Iterable[LabelRow], classes: Sequence[str], now: datetime, sites: Sequence[str] = ()) -> Coverage:
    """Return what labels cover.

    Args:
        rows: The labels that count, one a labeller and sample.
        classes: The classes in order; those that no label names are not covered.
        now: The present moment.
        sites: Sites that must be covered beside those of the labels.
    """
    clear, disputed = agreed(rows)
    every_class = [*classes, *sorted({row.label for row in clear} - set(classes))]
    every_site = sorted({row.site for row in clear} | set(sites))
    both = [f"{name}/{_site(site)}" for name in every_class for site in every_site]
    return Coverage(
        samples=len(clear),
        disputed=disputed,
        classes=_cases(clear, every_class, lambda row: row.label, now),
        sites=_cases(clear, [_site(site) for site in every_site], lambda row: _site(row.site), now),
        class_sites=_cases(clear, both, lambda row: f"{row.label}/{_site(row.site)}", now),
        cells=_cells(clear),
    )


def _site(name: str) -> str:
    return name or "(no site)"


def _cases(
    rows: Sequence[LabelRow], names: Sequence[str], name_of: Callable[[LabelRow], str], now: datetime
) -> tuple[Case, ...]:
    by_name: defaultdict[str, list[LabelRow]] = defaultdict(list)
    for row in rows:
        by_name[name_of(row)].append(row)
    return tuple(_case(name, by_name[name], len(rows), now) for name in names)


def _case(name: str, rows: Sequence[LabelRow], everything: int, now: datetime) -> Case:
    right = sum(row.predicted == row.label for row in rows)
    newest = max((row.time for row in rows), default=None)
    return Case(
        name=name,
        samples=len(rows),
        right=right,
        share_low=wilson(len(rows), everything)[0],
        right_low=wilson(right, len(rows))[0],
        newest=newest,
        is_covered=len(rows) >= FEWEST and newest is not None and now - newest <= STALE,
    )


def _cells(rows: Sequence[LabelRow]) -> tuple[Cell, ...]:
    counts = Counter((row.predicted, row.label) for row in rows)
    totals = Counter(row.label for row in rows)
    cells = [
        Cell(predicted, label, count, *wilson(count, totals[label])) for (predicted, label), count in counts.items()
    ]
    return tuple(sorted(cells, key=lambda cell: (-cell.samples, cell.label, cell.predicted)))
