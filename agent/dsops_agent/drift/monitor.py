"""Says when the frames of a stream no longer come from the distribution of the bundle's profile.

e-CUSUM over histograms. For each signal and each horizon, a bet against the reference: a histogram of recent frames,
learned with the horizon's memory, gives each new frame a likelihood ratio, whose expectation is 1 without drift. Their
CUSUM grows under drift; the mean of all CUSUMs stays a valid detector whatever the dependence between signals, so that
the average run to a false alarm is at least the threshold (Shin, Ramdas, Rinaldo, "E-detectors: A Nonparametric
Framework for Sequential Change Detection", NEJSDS 2023). Two repairs for practice:

- The reference is itself a sample of ``n_ref`` frames, and a bet learns its error too: ``(w - w^2 / 2) * chi2 / n_ref``
  a frame, with ``chi2`` of ``B - 1`` degrees of freedom. The slack takes away what this exceeds once in a thousand
  signals. (Its mean alone is not enough: with 500 reference frames five of eight drift-free streams of 12,000 frames
  then ended in an alarm, none with this slack; a shift by half a standard deviation is found 20 frames later.) A bin
  that was empty in the reference gets the upper limit of its probability, ``3 / n_ref``.
- Each signal is thinned by its own correlation time.

Beside the CUSUMs runs a plain e-process, which is never set back to zero within an epoch: the mean over signals and
horizons of the products of all likelihood ratios. The controller compares those of many devices.
"""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from dsops.profile import Profile, Signal
from dsops.signals import bin_of
from dsops_agent.drift.correlation import thinnings

logger = logging.getLogger(__name__)

CHECKPOINTS = (100, 300, 600)
"""Frames after which correlation is estimated; after the last, thinning is fixed."""
_SLACK_Z = 2.326
"""Normal quantile of 0.99."""
_EMPTY_COUNT = 3.0
_BLOCK_VALUES = 1 << 16
"""Values of histograms that one block of frames may take at a time."""
_BLOCK_FRAMES = 64
_MIN_QUIET = 50
"""Frames before the onset of a change that are enough to estimate correlation from them alone."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Level(IntEnum):
    """How sure the monitor is of drift."""

    OK = 0
    WARNING = 1  # enough to look at the frames: the sampler opens its share for drift
    DRIFT = 2  # as rare by chance as the profile's ``arl0`` demands; stays until a reset


@dataclass(frozen=True)
class Verdict:
    """What the monitor thinks after a frame.

    Attributes:
        score: Logarithm of the mean e-CUSUM; near 0 without drift.
        level: What the score means.
        frames: Frames that the monitor was fed since it was armed.
        signals: Largest CUSUM logarithm of each signal; empty while the level is ok. Of frames that are fed together
            only those have it at which the level changes, and the last.
    """

    score: float
    level: Level
    frames: int
    signals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Watched:
    """How one signal stands.

    Attributes:
        signal: Its definition and its reference counts.
        cusum: Largest logarithm of its CUSUMs.
        thinning: One of so many frames is fed.
        usual: Probability of each bin by the profile.
        recent: The same by the histogram of recent frames that speaks most for a change.
        counts: Frames in each bin since the window began.
    """

    signal: Signal
    cusum: float
    thinning: int
    usual: tuple[float, ...]
    recent: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Path:
    """The state before some steps and after each: ``recent`` [T + 1, H, S * B], the logarithms [T + 1, H, S]."""

    recent: Floats
    cusum: Floats
    plain: Floats


class DriftMonitor:
    """Watches one stream of frames against one profile. Not thread-safe.

    Args:
        profile: What the stream is compared with.
        known: Names of the signals that are measured, or None for all of the profile's. The others are left out, with
            one line in the log.
    """

    def __init__(self, profile: Profile, known: Collection[str] | None = None) -> None:
        unknown = [signal.name for signal in profile.signals if known is not None and signal.name not in known]
        if unknown:
            logger.warning("the profile names signals that this version does not measure: %s", ", ".join(unknown))
        self._signals = [signal for signal in profile.signals if signal.name not in unknown]
        self._alarm_score, self._warning_score = profile.alarm_score, profile.warning_score
        self._bet = profile.bet
        self._rates: Floats = np.array([[2.0 / (horizon + 1)] for horizon in profile.horizons])
        self._keep = 1.0 - self._rates
        self._reference = _reference(self._signals)
        self._gain: Floats = profile.bet / self._reference.ravel()
        self._first: Ints = np.arange(len(self._signals)) * self._reference.shape[1]
        self._block = min(max(_BLOCK_VALUES // max(self._keep.size * self._gain.size, 1), 1), _BLOCK_FRAMES)
        self._slack: Floats = np.array([slack(len(s.counts), profile.n_ref, profile.bet) for s in self._signals])
        self._frames = self._epoch_start = self._window_start = 0
        self.reset()

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of the signals that are watched."""
        return tuple(signal.name for signal in self._signals)

    @property
    def thin(self) -> tuple[int, ...]:
        """Every how many frames each signal is fed."""
        return tuple(self._thin.tolist())

    @property
    def state_bytes(self) -> int:
        """Size of everything that is kept of the stream."""
        kept = (self._recent, self._cusum, self._plain, self._zero_at, self._thin, self._counts)
        early = self._early.nbytes if self._early is not None else 0
        return sum(array.nbytes for array in kept) + early

    @property
    def onset(self) -> int | None:
        """Number of the last frame before the change that is under way seems to have begun; None without a change.

        It is the last moment at which the CUSUM that leads was zero (Page, Biometrika 1954, section 2).
        """
        return int(self._zero_at.flat[int(self._cusum.argmax())]) if self._level else None

    @property
    def frames(self) -> int:
        """Frames since the monitor was armed."""
        return self._frames

    @property
    def epoch_frames(self) -> int:
        """Frames of the epoch."""
        return self._frames - self._epoch_start

    @property
    def log_e(self) -> float:
        """Logarithm of the epoch's e-process, whose expectation without drift is at most 1 whenever one looks."""
        return _scores(self._plain[None])[0] if self._signals else 0.0

    @property
    def window_frames(self) -> int:
        """Frames since the window began."""
        return self._frames - self._window_start

    def begin_epoch(self) -> None:
        """Begin a new e-process; what was learned of the stream stays."""
        self._plain[:] = 0.0
        self._epoch_start = self._frames

    def begin_window(self) -> None:
        """Count frames by bin from zero."""
        self._counts[:] = 0
        self._window_start = self._frames

    def stand(self) -> list[Watched]:
        """Return how each signal stands, in the order of the profile."""
        found = []
        for at, signal in enumerate(self._signals):
            bins, leading = len(signal.counts), int(self._cusum[:, at].argmax())
            rows = (self._reference[at], self._by_signal[leading, at], self._counts[at])
            usual, recent, counts = (tuple(row[:bins].tolist()) for row in rows)
            found.append(Watched(signal, float(self._cusum[leading, at]), int(self._thin[at]), usual, recent, counts))
        return found

    def reset(self) -> None:
        """Arm anew: forget the stream, the level and the thinning."""
        horizons, signals = len(self._rates), len(self._signals)
        self._recent: Floats = np.repeat(self._reference.reshape(1, -1), horizons, axis=0)
        self._by_signal = self._recent.reshape(horizons, *self._reference.shape)  # the same memory
        self._cusum: Floats = np.zeros((horizons, signals))
        self._zero_at: Ints = np.zeros((horizons, signals), np.intp)
        self._thin: Ints = np.ones(signals, np.intp)
        self._plain: Floats = np.zeros((horizons, signals))
        self._counts: Ints = np.zeros(self._reference.shape, np.intp)
        self._epoch_start = self._window_start = 0
        small = np.uint8 if self._reference.shape[1] <= 1 << 8 else np.uint16
        self._early: NDArray[np.unsignedinteger] | None = np.zeros((CHECKPOINTS[-1], signals), small)
        self._is_thinned = False
        self._all: Ints = np.arange(signals)
        self._frames = 0
        self._level = Level.OK

    def feed(self, signals: Mapping[str, Sequence[float]]) -> list[Verdict]:
        """Take the signals of some frames, in order, and return the verdict after each. Extra signals are ignored.

        The verdicts are those of frames that are fed one by one, to the last bit; together they cost less.

        Raises:
            KeyError: A watched signal is missing; :func:`dsops.signals.measure` gives them all.
        """
        if not self._signals:
            return [Verdict(0.0, Level.OK, 0) for _ in next(iter(signals.values()), ())]
        bins: Ints = np.array([_bins(signal, signals[signal.name]) for signal in self._signals], np.intp).T
        verdicts: list[Verdict] = []
        while len(verdicts) < len(bins):
            verdicts += self._feed_block(bins[len(verdicts) : len(verdicts) + self._block])
        if verdicts and self._level:
            verdicts[-1] = replace(verdicts[-1], signals=self.contributions())
        return verdicts

    def contributions(self) -> dict[str, float]:
        """Return the largest CUSUM logarithm of each signal, largest first."""
        return self._contributions(self._cusum)

    def _contributions(self, cusum: Floats) -> dict[str, float]:
        largest = cusum.max(axis=0)
        order = np.argsort(-largest, kind="stable")
        return {self._signals[at].name: float(largest[at]) for at in order}

    def _feed_block(self, bins: Ints) -> list[Verdict]:
        """Take the first frames of a block: all, or those up to a frame after which correlation must be estimated."""
        due = (self._frames + np.arange(len(bins)))[:, None] % self._thin == 0
        steps = np.flatnonzero(due.any(axis=1))  # frames of which no signal is due change nothing
        path = self._walk(bins[steps], due[steps])
        scores = _scores(path.cusum)
        reached = np.searchsorted(steps, np.arange(len(bins)), side="right").tolist()
        before = self._frames
        if self._early is not None:
            bins = bins[: len(self._early) - before]
            self._early[before : before + len(bins)] = bins
        verdicts: list[Verdict] = []
        for number, step in enumerate(reached[: len(bins)], start=before + 1):
            score = scores[step]
            must_estimate = self._early is not None and self._must_estimate(number, score)
            if must_estimate or number == before + len(bins):
                self._take(path, step, steps[:step] + before + 1)
                self._count(bins[: number - before])
                self._frames = number
            if must_estimate:
                self._estimate_thinning(score)
                score = _scores(self._cusum[None])[0]
            verdicts.append(self._judge(number, score, path.cusum[step]))
            if must_estimate:
                break
        return verdicts

    def _walk(self, bins: Ints, due: NDArray[np.bool_]) -> _Path:
        """Bet on frames one after the other [T, S]; signals that are not due stay as they are."""
        frames, at = len(bins), self._first + bins
        won = np.zeros((frames, *self._recent.shape))
        won[np.arange(frames)[:, None], :, at] = due[..., None] * self._rates[:, 0]
        kept: list[Floats] = [self._keep] * frames
        floor: list[float | Floats] = [0.0] * frames
        if self._is_thinned:
            spread = np.repeat(due, self._reference.shape[1], axis=1)[:, None]
            kept = list(np.where(spread, self._keep, 1.0))
            floor = list(np.where(due, 0.0, -np.inf))
        recent = np.empty((frames + 1, *self._recent.shape))
        recent[0] = self._recent
        for now, after, keep, gain in zip(recent[:-1], recent[1:], kept, won, strict=True):
            np.add(np.multiply(now, keep, out=after), gain, out=after)
        horizons = np.arange(len(self._rates))[:, None]
        learned = recent[np.arange(frames)[:, None, None], horizons, at[:, None]]  # before each frame
        growth = np.log(learned * self._gain[at][:, None] + (1.0 - self._bet)) - self._slack
        growth *= due[:, None]
        cusum = np.empty((frames + 1, *self._cusum.shape))
        cusum[0] = self._cusum
        for now, after, least, gain in zip(cusum[:-1], cusum[1:], floor, growth, strict=True):
            np.add(np.maximum(now, least, out=after), gain, out=after)
        plain = np.concatenate([self._plain[None], growth]).cumsum(axis=0)
        return _Path(recent, cusum, plain)

    def _count(self, bins: Ints) -> None:
        flat = np.bincount((bins + self._first).ravel(), minlength=self._counts.size)
        self._counts += flat.reshape(self._counts.shape)

    def _take(self, path: _Path, step: int, numbers: Ints) -> None:
        """Let the state be that after a step; ``numbers`` are those of the frames of all steps up to there."""
        self._recent[:] = path.recent[step]
        self._cusum[:] = path.cusum[step]
        self._plain[:] = path.plain[step]
        if step:
            low = path.cusum[step:0:-1] <= 0.0  # from the last step to the first
            self._zero_at = np.where(low.any(axis=0), numbers[::-1][low.argmax(axis=0)], self._zero_at)

    def _judge(self, number: int, score: float, cusum: Floats) -> Verdict:
        before = self._level
        self._set_level(number, score)
        is_news = self._level and self._level is not before
        return Verdict(score, self._level, number, self._contributions(cusum) if is_news else {})

    def _must_estimate(self, number: int, score: float) -> bool:
        about_to_rise = number >= CHECKPOINTS[0] and self._level_of(score) > self._level
        return about_to_rise or number in CHECKPOINTS

    def _estimate_thinning(self, score: float) -> None:
        """Estimate each signal's correlation time; evidence that was gathered with too little thinning is void.

        A change in the stream looks like correlation. While one seems under way, only the frames before its onset
        count: the last moment at which the leading CUSUM was zero.
        """
        early = self._early
        if early is None:
            return
        quiet = self._frames
        if score > self._warning_score / 2:
            onset = int(self._zero_at.flat[int(self._cusum.argmax())])
            quiet = onset if onset >= _MIN_QUIET else self._frames
        wanted_all = thinnings(early[:quiet], [signal.kind == "categorical" for signal in self._signals])
        for at, wanted in enumerate(wanted_all):
            if wanted > self._thin[at]:
                self._by_signal[:, at] = self._reference[at]
                self._cusum[:, at] = 0.0
                self._plain[:, at] = 0.0
                self._zero_at[:, at] = self._frames
            self._thin[at] = wanted
        self._is_thinned = bool((self._thin > 1).any())
        if self._frames >= CHECKPOINTS[-1]:
            self._early = None
            logger.debug("thinning is fixed: %s", dict(zip(self.watched, self.thin, strict=True)))

    def _level_of(self, score: float) -> Level:
        if score > self._alarm_score:
            return Level.DRIFT
        return Level.WARNING if score > self._warning_score else Level.OK

    def _set_level(self, number: int, score: float) -> None:
        level = self._level_of(score)
        if number < CHECKPOINTS[0] or self._level is Level.DRIFT:
            return
        if level > self._level or score < self._warning_score / 2:  # not at the border, where it would ring
            self._level = level


def _reference(signals: list[Signal]) -> Floats:
    """Return each signal's reference distribution [S, B], padded with ones that no frame falls into."""
    widest = max((len(signal.counts) for signal in signals), default=1)
    reference = np.ones((len(signals), widest))
    for at, signal in enumerate(signals):
        smoothed = np.array([count + 0.5 if count else _EMPTY_COUNT for count in signal.counts])
        reference[at, : len(smoothed)] = smoothed / smoothed.sum()
    return reference


def slack(bins: int, n_ref: int, bet: float) -> float:
    """Return what a bet can earn a frame, at most, from the error of a reference of ``n_ref`` frames.

    The quantile of chi-square is Wilson and Hilferty's (1931) approximation.
    """
    freedom = bins - 1
    part = 2.0 / (9.0 * freedom)
    quantile = freedom * (1.0 - part + _SLACK_Z * math.sqrt(part)) ** 3
    return (bet - bet * bet / 2.0) * quantile / n_ref


def _scores(cusums: Floats) -> list[float]:
    """Return the logarithm of the mean e-CUSUM of each [T, H, S]."""
    flat = cusums.reshape(len(cusums), -1)
    largest = flat.max(axis=1)
    sums = np.exp(flat - largest[:, None]).sum(axis=1)
    return [top + math.log(total / flat.shape[1]) for top, total in zip(largest.tolist(), sums.tolist(), strict=True)]


def _bins(signal: Signal, values: Sequence[float]) -> list[int]:
    if signal.kind == "ordinal" and not (signal.marks or signal.missing):
        edges = signal.edges
        return [bin_of(edges, value) for value in values]
    return [signal.bin(value) for value in values]
