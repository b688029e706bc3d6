"""Whether a model errs more often than it did: from the labels of the samples that were drawn at random.

What a model is asked may stay the same while the truth changes (concept drift). No monitor without labels can see
that; this looks at the share of wrong answers among uniformly drawn, labelled samples. The null hypothesis is the error
rate of the evaluation plus a margin. A change may come late, so bets are begun anew: an e-detector (Shin, Ramdas and
Rinaldo, NEJSDS 2023, section 3), the sum over all begun bets of their wealth, alarms on average no sooner than after
``arl0`` labels without a change. Pure: labels in, verdict out.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dsops.betting import Bet
from dsops.errors import InvalidInput
from dsops_controller.dataops.labels.agreement import wilson

MARGIN = 0.01
ARL0 = 30_000.0
"""Labels between false alarms, on average at least."""
_ANEW = 25
"""A bet is begun with every so manieth label."""
_MOST = 40
"""Bets that run at a time; the oldest end, which only makes alarms rarer."""


@dataclass(frozen=True)
class Audit:
    """A labelled sample of the random share.

    Attributes:
        at: When the device saw it.
        sample: Its id.
        is_wrong: Whether the model's answer was not the label.
        label: What it is.
    """

    at: datetime
    sample: str
    is_wrong: bool
    label: str = ""


@dataclass(frozen=True)
class Alarm:
    """When the error rate was found to be higher.

    Attributes:
        at: Time of the sample that told.
        labels: Number of labels until then.
        since: Time of the first sample of the bet that won most: about when the change began.
        samples: Ids of the wrong ones since then, newest first.
        labels_wrong: How often the model was wrong since then, by label, most first.
    """

    at: datetime
    labels: int
    since: datetime
    samples: tuple[str, ...]
    labels_wrong: dict[str, int]


@dataclass(frozen=True)
class Verdict:
    """What the labels say.

    Attributes:
        labels: Number of them.
        wrong: Of those, wrong answers.
        low: Lower limit of the error rate (Wilson, 95 %).
        high: Upper limit.
        limit: Error rate that the model is allowed.
        log_e: Newest logarithm of the detector.
        threshold: What it must reach.
        alarm: The first alarm, if any.
    """

    labels: int
    wrong: int
    low: float
    high: float
    limit: float
    log_e: float
    threshold: float
    alarm: Alarm | None

    @property
    def state(self) -> str:
        """``ok``, ``warning`` at half of the threshold, or ``drift``."""
        if self.alarm is not None:
            return "drift"
        return "warning" if self.log_e >= self.threshold / 2 else "ok"


class ErrorDetector:
    """Takes right and wrong answers one after the other.

    Args:
        reference_error: Error rate of the evaluation.
        margin: How much more is allowed.
        arl0: Labels between false alarms, on average at least.
    """

    def __init__(self, reference_error: float, margin: float = MARGIN, arl0: float = ARL0) -> None:
        if not 0.0 <= reference_error < 1.0 or not 0.0 < reference_error + margin < 1.0:
            raise InvalidInput(
                f"an error rate of {reference_error:g} and a margin of {margin:g} leave nothing to detect",
                hint="their sum is above 0 and below 1",
            )
        self._limit = reference_error + margin
        self.threshold = math.log(arl0)
        self._bets: list[tuple[int, Bet]] = []
        self._labels = 0
        self.log_e = -math.inf

    @property
    def since(self) -> int:
        """Number, from 0, of the label with which the richest bet began."""
        return max(self._bets, key=lambda one: one[1].log_wealth)[0]

    def add(self, *, is_wrong: bool) -> bool:
        """Take an answer; return whether the error rate is now known to be above its limit."""
        if self._labels % _ANEW == 0:
            self._bets = [*self._bets[-(_MOST - 1) :], (self._labels, Bet(self._limit))]
        self._labels += 1
        wealth = [bet.add(float(is_wrong)) for _, bet in self._bets]
        most = max(wealth)
        # Every bet stands for the labels until the next begins, each with the same right to an alarm.
        self.log_e = most + math.log(_ANEW * math.fsum(math.exp(one - most) for one in wealth))
        return self.log_e >= self.threshold


def judge(audits: Iterable[Audit], reference_error: float, margin: float = MARGIN, arl0: float = ARL0) -> Verdict:
    """Return what labelled samples, in the order of their times, say of a model's error rate.

    Raises:
        InvalidInput: Error rate and margin make no sense.
    """
    detector = ErrorDetector(reference_error, margin, arl0)
    seen: list[Audit] = []
    alarm = None
    for audit in sorted(audits, key=lambda one: (one.at, one.sample)):
        seen.append(audit)
        if detector.add(is_wrong=audit.is_wrong) and alarm is None:
            alarm = _alarm(seen, detector.since)
    wrong = sum(one.is_wrong for one in seen)
    low, high = wilson(wrong, len(seen))
    log_e = max(detector.log_e, 0.0)
    return Verdict(len(seen), wrong, low, high, reference_error + margin, log_e, detector.threshold, alarm)


def _alarm(seen: list[Audit], since: int) -> Alarm:
    errors = [one for one in seen[since:] if one.is_wrong]
    by_label: dict[str, int] = {}
    for one in errors:
        by_label[one.label] = by_label.get(one.label, 0) + 1
    ranked = dict(sorted(by_label.items(), key=lambda item: -item[1]))
    newest = tuple(one.sample for one in reversed(errors))
    return Alarm(seen[-1].at, len(seen), seen[since].at, newest, ranked)
