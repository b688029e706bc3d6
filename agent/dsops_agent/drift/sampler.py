"""Decides which inputs are kept as samples: for a reason, under a byte budget. Pure: time and chance are passed in.

    reason                share   what is kept
    random                20 %    a fair picture of the stream, ``random_rate`` of it at most: the audit
    uncertain             40 %    drawn with weight ``1 - confidence``, times that of the rules that a frame meets
    drift                 20 %    the frames that fit the profile least, while the monitor warns
    shadow_disagreement   10 %    each frame that champion and challenger answer differently, at once
    request               10 %    the next frames that somebody asked for, at once

The first three are chosen among all frames of a *period*, and come out at its end: a device streams, and cannot look at
a day before it decides. A period ends after ``period_s``, or later, once the budget pays for what is held. Shares are
reserved; only what overflows a full one flows to ``uncertain`` (:mod:`dsops_agent.drift.budget`). Every random or
uncertain sample tells its inclusion: sums over the samples of one of these reasons, each divided by it, are unbiased
estimates of sums over all frames (:mod:`dsops_agent.drift.reservoir`, :mod:`dsops_agent.drift.spacing`).
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from pydantic import Field

from dsops.manifest import Frozen
from dsops_agent.drift.budget import Budget, unnoted
from dsops_agent.drift.monitor import Level
from dsops_agent.drift.reservoir import Item, Reservoir
from dsops_agent.drift.spacing import Blocks, Gap

T = TypeVar("T")

_DAY_S = 86400.0
MIN_WEIGHT = 1e-3
"""Of the surest frame: one that could never be drawn would be missing from every estimate."""


class Reason(StrEnum):
    """Why an input is kept."""

    RANDOM = "random"
    UNCERTAIN = "uncertain"
    DRIFT = "drift"
    DISAGREEMENT = "shadow_disagreement"
    REQUEST = "request"


SHARES = {
    Reason.RANDOM: 0.2,
    Reason.UNCERTAIN: 0.4,
    Reason.DRIFT: 0.2,
    Reason.DISAGREEMENT: 0.1,
    Reason.REQUEST: 0.1,
}


class WatchRule(Frozen):
    """Frames that are worth more than others.

    Attributes:
        classes: Only frames that the model takes for one of these; none named: any.
        above: Only frames of which the model is at least so sure.
        below: Only frames of which it is less sure.
        weight: By how much the weight of such a frame is multiplied.
    """

    classes: tuple[str, ...] = Field(default=(), max_length=64)
    above: float = Field(default=0.0, ge=0, le=1)
    below: float = Field(default=1.01, ge=0, le=1.01)
    weight: float = Field(gt=0, le=1000)

    def meets(self, predicted: str, confidence: float) -> bool:
        """Whether the rule is about a frame."""
        return self.above <= confidence < self.below and (not self.classes or predicted in self.classes)


class SamplerSettings(Frozen):
    """What may be kept.

    Attributes:
        bytes_per_day: Long-run budget of one model; 0 keeps nothing.
        burst_bytes: What may be kept at once after a quiet time.
        random_rate: Share of all frames that may be kept at random, at most.
        uncertain_below: Only frames below this confidence are kept as uncertain.
        min_gap_s: Least time between two samples of the same reason; consecutive frames teach little.
        period_s: Time over which samples are chosen.
        deduplicate: Whether frames that are nearly identical count as one.
        watch: Frames that are worth more.
    """

    bytes_per_day: int = Field(default=5_000_000, ge=0)
    burst_bytes: int = Field(default=500_000, ge=0)
    random_rate: float = Field(default=0.01, ge=0, le=1)
    uncertain_below: float = Field(default=1.0, ge=0, le=1)
    min_gap_s: float = Field(default=1.0, ge=0)
    period_s: float = Field(default=900.0, ge=0)
    deduplicate: bool = True
    watch: tuple[WatchRule, ...] = Field(default=(), max_length=16)


def new_budget(settings: SamplerSettings, now_s: float, spent: Callable[[], None] = unnoted) -> Budget[Reason]:
    """Return a full budget of one model; ``now_s`` is the monotonic time, ``spent`` called when it is not full."""
    return Budget(settings.bytes_per_day / _DAY_S, _burst(settings), SHARES, Reason.UNCERTAIN, now_s, spent)


def _burst(settings: SamplerSettings) -> int:
    return settings.burst_bytes if settings.bytes_per_day else 0


@dataclass(frozen=True, slots=True)
class Frame:
    """What is known of a frame.

    Attributes:
        at_s: Monotonic time.
        size_bytes: What the sample would take.
        confidence: How sure the model is, from 0 to 1; None when it does not say.
        predicted: What the model takes it for.
        level: What the drift monitor says.
        oddness: How little the frame fits the profile.
        gap_frames: How many consecutive frames of the stream resemble each other.
    """

    at_s: float
    size_bytes: int
    confidence: float | None = None
    predicted: str = ""
    level: Level = Level.OK
    oddness: float = 0.0
    gap_frames: int = 1


@dataclass(frozen=True, slots=True)
class Wish:
    """Samples that somebody asked for.

    Attributes:
        id: Name of the request.
        count: How many.
        until_s: Monotonic time after which none is kept.
    """

    id: str
    count: int
    until_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """A decision to keep a frame.

    Attributes:
        reason: Why.
        score: What it was chosen by: ``1 - confidence``, the oddness, the distance of two answers; 0 for random.
        inclusion: Such a frame stands for one in so many; 0 when that is unknown.
        weight: With which it was drawn; 0 when it was not.
        repeats: Frames like it that were not kept.
        requested_by: Name of the request.
        content: The frame.
    """

    reason: Reason
    score: float
    content: T
    inclusion: float = 0.0
    weight: float = 0.0
    repeats: int = 0
    requested_by: str = ""


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    """A frame that may be kept, and by what it is chosen."""

    number: int
    score: float
    content: T


class _Draw(Generic[T]):
    """One reason's choice among the frames of a period."""

    def __init__(self, blocks: Blocks[_Held[T]] | None) -> None:
        self.blocks = blocks
        self.reservoir: Reservoir[_Held[T]] | None = None
        self.due_s = 0.0


class Sampler(Generic[T]):
    """Chooses samples of one model. Not thread-safe.

    Args:
        settings: What may be kept.
        chance: Gives a random number in [0, 1).
        budget: What may be spent; samplers of the releases of one model share one. See :func:`new_budget`.
        print_of: Returns a print of a frame, by which it is compared with others.
        alike: Whether two prints that differ are of frames that are nearly identical.
    """

    def __init__(
        self,
        settings: SamplerSettings,
        chance: Callable[[], float],
        budget: Budget[Reason],
        print_of: Callable[[T], Hashable] | None = None,
        alike: Callable[[Hashable, Hashable], bool] = lambda one, two: False,
    ) -> None:
        self._settings = settings
        self._chance = chance
        self._print_of = print_of if settings.deduplicate else None
        self._alike = alike
        self._budget = budget
        self._is_open = _burst(settings) > 0
        self._draws: dict[Reason, _Draw[T]] = {
            Reason.RANDOM: _Draw(None),
            Reason.UNCERTAIN: _Draw(Blocks(is_first=chance() < 0.5)),
            Reason.DRIFT: _Draw(Blocks(is_first=True)),
        }
        self._wishes: list[Wish] = []
        self._wished_s = -math.inf
        self._number = 0
        self._gap = Gap(settings.min_gap_s)

    @property
    def holds(self) -> int:
        """How many frames are held until the end of their period."""
        return sum(len(draw.reservoir) for draw in self._draws.values() if draw.reservoir)

    @property
    def holds_bytes(self) -> int:
        """What the samples that are held would take."""
        return sum(draw.reservoir.size_bytes for draw in self._draws.values() if draw.reservoir)

    def want(self, wishes: Sequence[Wish]) -> None:
        """Keep frames for those who ask for some from now on, in turns, and for nobody else."""
        self._wishes = list(wishes)

    def offer(self, frame: Frame, content: Callable[[], T]) -> Kept[T] | None:
        """Take note of one frame.

        Args:
            frame: What is known of it.
            content: Makes what is kept of it; called only if it may be.

        Returns:
            The frame, where somebody asked for it.
        """
        self._number += 1
        if not self._is_open:
            return None
        made: list[T] = []

        def make() -> T:
            if not made:
                made.append(content())
            return made[0]

        if frame.gap_frames != self._gap.frames:
            self._gap = Gap(self._settings.min_gap_s, frame.gap_frames)
        self._offer_random(frame, make)
        self._offer_uncertain(frame, make)
        if frame.level >= Level.WARNING:
            self._offer_odd(frame, make)
        return self._offer_wished(frame, make) if self._wishes else None

    def disputed(self, now_s: float, size_bytes: int, distance: float, content: Callable[[], T]) -> Kept[T] | None:
        """Decide on a frame that champion and challenger answer differently; ``distance`` is that of the answers."""
        if not self._budget.take(Reason.DISAGREEMENT, size_bytes, now_s):
            return None
        return Kept(Reason.DISAGREEMENT, distance, content())

    def release(self, now_s: float, *, is_end: bool = False) -> list[Kept[T]]:
        """Return what was kept in periods that are over.

        Args:
            now_s: Monotonic time.
            is_end: Whether no more frames come: then every period is over for which the budget pays.
        """
        seen: set[int] = set()
        kept: list[Kept[T]] = []
        for reason, draw in self._draws.items():
            if draw.reservoir is not None and (is_end or now_s >= draw.due_s):
                kept += self._close(reason, draw, now_s, seen)
        return kept

    def _offer_random(self, frame: Frame, make: Callable[[], T]) -> None:
        rate = self._settings.random_rate
        if rate <= 0.0 or self._chance() >= rate:
            return
        reservoir = self._opened(Reason.RANDOM, frame)
        key = self._key(1.0)
        if key < reservoir.threshold:
            held = _Held(self._number, 0.0, make())
            reservoir.add(Item(key, 1.0, 1.0 / rate, frame.size_bytes, held, 1.0))

    def _offer_uncertain(self, frame: Frame, make: Callable[[], T]) -> None:
        confidence = frame.confidence
        if confidence is None or not confidence < self._settings.uncertain_below:  # not of NaN either
            return
        doubt = 1.0 - confidence
        weight = max(doubt, MIN_WEIGHT)
        for rule in self._settings.watch:
            if rule.meets(frame.predicted, confidence):
                weight *= rule.weight
        self._offer_block(Reason.UNCERTAIN, frame, (self._key(weight), weight, 1.0, doubt), make)

    def _offer_odd(self, frame: Frame, make: Callable[[], T]) -> None:
        self._offer_block(Reason.DRIFT, frame, (-frame.oddness, 0.0, 0.0, frame.oddness), make)

    def _offer_block(
        self, reason: Reason, frame: Frame, draw: tuple[float, float, float, float], make: Callable[[], T]
    ) -> None:
        """Offer a frame to its block, and what the block before leaves to the reservoir.

        Args:
            reason: Whose block.
            frame: The frame.
            draw: Its key, weight and expansion, and the score by which it is chosen.
            make: Makes what is kept of it.
        """
        self._opened(reason, frame)
        of_reason = self._draws[reason]
        blocks = of_reason.blocks
        assert blocks is not None
        if (left := blocks.begin(frame.at_s, self._gap)) is not None:
            self._add(of_reason, left)
        key, weight, expansion, score = draw
        blocks.add(weight)
        if blocks.wants(key):
            held = _Held(self._number, score, make())
            blocks.put(Item(key, weight, expansion, frame.size_bytes, held, weight))

    def _add(self, draw: _Draw[T], item: Item[_Held[T]] | None) -> None:
        if item is not None and draw.reservoir is not None:
            draw.reservoir.add(item, self._print_of(item.content.content) if self._print_of else None)

    def _offer_wished(self, frame: Frame, make: Callable[[], T]) -> Kept[T] | None:
        self._wishes = [wish for wish in self._wishes if frame.at_s <= wish.until_s]
        if not self._wishes or frame.at_s - self._wished_s < self._settings.min_gap_s:
            return None
        if not self._budget.take(Reason.REQUEST, frame.size_bytes, frame.at_s):
            return None
        self._wished_s = frame.at_s
        first, *others = self._wishes
        self._wishes = [*others, Wish(first.id, first.count - 1, first.until_s)] if first.count > 1 else others
        return Kept(Reason.REQUEST, 0.0, make(), requested_by=first.id)

    def _opened(self, reason: Reason, frame: Frame) -> Reservoir[_Held[T]]:
        """Return the reservoir of the reason's period, which begins with this frame if there is none."""
        draw = self._draws[reason]
        if draw.reservoir is None:
            room = self._budget.within(reason, self._settings.period_s, frame.at_s)
            draw.reservoir = Reservoir(room, self._alike)
            draw.due_s = frame.at_s + self._settings.period_s
        return draw.reservoir

    def _close(self, reason: Reason, draw: _Draw[T], now_s: float, seen: set[int]) -> list[Kept[T]]:
        """End a period if the budget pays for what is held; what is odd and kept already is not kept twice."""
        if draw.blocks is not None:
            self._add(draw, draw.blocks.end(now_s, self._gap))
        assert draw.reservoir is not None
        drawn = draw.reservoir.draw()
        if reason is Reason.DRIFT:
            drawn = [one for one in drawn if one.item.content.number not in seen]
        if not self._budget.take(reason, sum(one.item.size_bytes for one in drawn), now_s):
            return []
        draw.reservoir = None
        seen.update(one.item.content.number for one in drawn)
        return [
            Kept(
                reason, one.item.content.score, one.item.content.content,
                one.inclusion, one.item.own_weight, one.repeats,
            )
            for one in drawn
        ]  # fmt: skip

    def _key(self, weight: float) -> float:
        return -math.log(1.0 - self._chance()) / weight
