"""Frames that are measured and fed together give what they give one by one, to the last bit."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from drift_streams import ORDINAL, make_profile, one, shifted, stream
from numpy.typing import NDArray

from dsops.manifest import Task
from dsops.profile import Profile
from dsops.signals import MOST_VALUES, bin_of, measure, strips
from dsops_agent.drift.monitor import DriftMonitor, Level, Verdict, slack

Floats = NDArray[np.float32]
Frame = Mapping[str, float]


def columns(frames: Sequence[Frame]) -> dict[str, list[float]]:
    return {name: [frame[name] for frame in frames] for name in frames[0]}


def fed_together(monitor: DriftMonitor, frames: Sequence[Frame], seed: int) -> list[Verdict]:
    """Feed frames in groups of a random size."""
    rng = np.random.default_rng(seed)
    verdicts: list[Verdict] = []
    while len(verdicts) < len(frames):
        start = len(verdicts)
        verdicts += monitor.feed(columns(frames[start : start + int(rng.integers(1, 90))]))
    return verdicts


def figures(verdicts: Sequence[Verdict]) -> list[tuple[float, Level, int]]:
    return [(verdict.score, verdict.level, verdict.frames) for verdict in verdicts]


@pytest.mark.parametrize(("hold", "by"), [(1, 0.0), (1, 0.8), (3, 0.2), (7, 1.0)])
def test_verdicts_do_not_depend_on_what_is_fed_together(hold: int, by: float) -> None:
    frames = stream(20 + hold, 900, hold) + shifted(stream(30 + hold, 800, hold), by)
    frames[250] = dict.fromkeys(frames[250], math.nan)
    alone, together = DriftMonitor(make_profile(3)), DriftMonitor(make_profile(3))
    expected = [one(alone, frame) for frame in frames]
    found = fed_together(together, frames, hold)
    assert figures(found) == figures(expected)
    assert (together.thin, together.contributions()) == (alone.thin, alone.contributions())
    news = [(a, b) for before, a, b in zip(found, found[1:], expected[1:], strict=False) if a.level is not before.level]
    assert all(a.signals == b.signals and (a.signals or not a.level) for a, b in news)
    assert bool(news) == (by > 0.5)


def plain_scores(profile: Profile, frames: Sequence[Frame]) -> list[float]:
    """The e-CUSUMs of a stream without thinning, a number at a time: what the module's own text says."""
    weights = [[count + 0.5 if count else 3.0 for count in signal.counts] for signal in profile.signals]
    reference = [[weight / sum(row) for weight in row] for row in weights]
    pairs = [(signal, horizon) for signal in range(len(reference)) for horizon in profile.horizons]
    recent = {pair: list(reference[pair[0]]) for pair in pairs}
    cusum = dict.fromkeys(pairs, 0.0)
    found = []
    for frame in frames:
        for signal, horizon in pairs:
            watched, rate = profile.signals[signal], 2 / (horizon + 1)
            value = frame[watched.name]
            at = bin_of(watched.edges, value) if watched.kind == "ordinal" else int(value)
            learned = recent[signal, horizon]
            ratio = 1 - profile.bet + profile.bet * learned[at] / reference[signal][at]
            growth = math.log(ratio) - slack(len(watched.counts), profile.n_ref, profile.bet)
            cusum[signal, horizon] = max(cusum[signal, horizon], 0.0) + growth
            recent[signal, horizon] = [value * (1 - rate) + rate * (place == at) for place, value in enumerate(learned)]
        found.append(math.log(sum(map(math.exp, cusum.values())) / len(cusum)))
    return found


def test_scores_are_those_of_the_plain_rule() -> None:
    frames = stream(41, 650) + shifted(stream(42, 50), 1.0)
    monitor = DriftMonitor(make_profile(4))
    found = fed_together(monitor, frames, 1)
    assert monitor.thin == (1,) * (len(ORDINAL) + 1)
    assert [verdict.score for verdict in found] == pytest.approx(plain_scores(make_profile(4), frames), abs=1e-9)


def frames_of(shape: tuple[int, ...], count: int, *, tied: bool) -> Floats:
    x = np.random.default_rng(len(shape)).normal(size=(count, *shape)).astype(np.float32)
    return np.round(x * 30).clip(-60, 60) / np.float32(30) if tied else x


@pytest.mark.parametrize(
    "shape",
    [(8, 8, 1), (49, 10, 1), (32, 24, 3), (640,), (1,), (3, 5), (1, 4, 1), (2, 3, 4, 5), (96, 96, 3), (16_001,)],
)
@pytest.mark.parametrize("task", Task)
def test_signals_do_not_depend_on_what_is_measured_together(shape: tuple[int, ...], task: Task) -> None:
    for classes, tied in ((2, False), (10, True), (300, False)):
        x, raw = frames_of(shape, 7, tied=tied), frames_of((classes,), 7, tied=tied)
        powers = np.exp(raw)
        kinds = {
            Task.CLASSIFICATION: (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32),
            Task.RECONSTRUCTION: powers[:, 0],
        }
        scores = kinds.get(task)
        together = measure(task, [(0, x), (2, x[:, ::-1])], raw, scores)
        for row in range(7):
            part, one_score = slice(row, row + 1), None if scores is None else scores[row : row + 1]
            alone = measure(task, [(0, x[part]), (2, x[part, ::-1])], raw[part], one_score)
            assert alone == {name: values[part] for name, values in together.items()}


def test_signals_are_what_their_names_say() -> None:
    x = frames_of((6, 5, 2), 4, tied=True)
    scores = np.array([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.4, 0.4, 0.2], [1.0, 0.0, 0.0]], np.float32)
    found = measure(Task.CLASSIFICATION, [(0, x)], scores, scores)
    wide = x.reshape(4, -1).astype(np.float64)
    extreme = (wide == wide.min(axis=1, keepdims=True)) | (wide == wide.max(axis=1, keepdims=True))
    down, across = np.abs(np.diff(x, axis=1)).reshape(4, -1), np.abs(np.diff(x, axis=2)).reshape(4, -1)
    above = x - x.min(axis=(1, 2, 3), keepdims=True)
    assert found["predicted_class"] == [1.0, 2.0, 0.0, 0.0]
    for name, expected in {
        "confidence": [0.6, 0.6, 0.4, 1.0],
        "margin": [0.3, 0.4, 0.0, 1.0],
        "entropy": [-sum(p * math.log(p) for p in row if p) for row in scores.tolist()],
        "input_mean": wide.mean(axis=1),
        "input_std": wide.std(axis=1),
        "input_saturated": extreme.mean(axis=1),
        "input_gradient": (down.mean(axis=1) + across.mean(axis=1)) / 2,
        "input_row": [np.average((np.arange(6) + 0.5) / 6, weights=light.sum(axis=(1, 2))) for light in above],
        "input_column": [np.average((np.arange(5) + 0.5) / 5, weights=light.sum(axis=(0, 2))) for light in above],
    }.items():
        assert found[name] == pytest.approx(list(expected), rel=2e-5, abs=1e-6), name


def test_of_large_frames_a_part_is_measured_that_says_the_same() -> None:
    x, outputs = frames_of((160, 120, 3), 2, tied=False), np.ones((2, 3), np.float32)
    part = strips(x)
    assert part is not None
    assert part.values.size <= 2 * MOST_VALUES  # of 57,600 a frame
    found = measure(Task.OTHER, [(0, x)], outputs, None)
    assert found == measure(Task.OTHER, [(0, part)], outputs, None)
    whole = x.reshape(2, -1)
    steps = [np.abs(np.diff(x, axis=axis)).reshape(2, -1).mean(axis=1) for axis in (1, 2)]
    assert found["input_mean"] == pytest.approx(whole.mean(axis=1).tolist(), abs=0.1 * float(whole.std()))
    assert found["input_std"] == pytest.approx(whole.std(axis=1).tolist(), rel=0.1)
    assert found["input_gradient"] == pytest.approx(((steps[0] + steps[1]) / 2).tolist(), rel=0.1)


def test_frames_with_their_channels_first_are_measured_whole() -> None:
    x = frames_of((3, 80, 80), 2, tied=False)
    assert strips(x) is None
    found = measure(Task.OTHER, [(0, x)], np.ones((2, 3), np.float32), None)
    assert found["input_mean"] == pytest.approx(x.reshape(2, -1).mean(axis=1).tolist(), rel=1e-3, abs=1e-4)


def test_whole_numbers_and_flags_of_a_first_output_are_measured_too() -> None:
    for values in (np.array([[1, 5], [2, 2]], np.int32), np.array([[True, False], [True, True]])):
        found = measure(Task.OTHER, [], values, None)
        assert found["output_mean"] == values.mean(axis=1).tolist()
        assert found["output_std"] == values.std(axis=1).tolist()
