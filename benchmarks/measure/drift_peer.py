"""Runs in a library's own environment: shows its detectors the streams of a file, and prints when each alarmed.

``python drift_peer.py LIBRARY STREAMS`` prints JSON: for each detector its setting, false alarms in 10,000 clean
frames, the frame of the first alarm in each drifting stream (0: none), and its time a frame. Each detector gets the most
sensitive setting of its grid that raises at most one false alarm in 10,000 clean frames, unless the library does not
allow to try several. A multivariate stream has a detector a signal; any of them may alarm.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

ALLOWED = 1.0
"""False alarms per 10,000 frames."""
WINDOW = 500
ONE = "confidence"
"""Signal for a detector that takes too long for all of them."""


class Detector(Protocol):
    """Takes frames; after an alarm it begins anew."""

    def alarm(self, frame: Any) -> bool: ...


@dataclass(frozen=True)
class Entry:
    """A detector with its settings, the most sensitive first."""

    name: str
    make: Callable[[Any], Detector]
    settings: tuple[Any, ...]
    column: str = "all"
    share: float = 1.0


class Every:
    """One detector a signal."""

    def __init__(self, make: Callable[[], Any], count: int) -> None:
        self._make, self._count = make, count
        self._all = [make() for _ in range(count)]

    def alarm(self, frame: Any) -> bool:
        found = [one.alarm(value) for one, value in zip(self._all, frame, strict=True)]
        if any(found):
            self._all = [self._make() for _ in range(self._count)]
        return any(found)


class River:
    """A drift detector of river."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def alarm(self, value: float) -> bool:
        self._detector.update(value)
        return bool(self._detector.drift_detected)


class IncrementalKs:
    """frouros's incremental Kolmogorov-Smirnov test at a level."""

    def __init__(self, reference: Any, level: float) -> None:
        self._reference, self._level = reference, level
        self._begin()

    def _begin(self) -> None:
        from frouros.detectors.data_drift import IncrementalKSTest

        self._detector = IncrementalKSTest(window_size=100)
        self._detector.fit(X=self._reference)

    def alarm(self, value: float) -> bool:
        found, _ = self._detector.update(value=float(value))
        is_drift = found is not None and found.p_value < self._level
        if is_drift:
            self._begin()
        return is_drift


class Scaled:
    """Divides by the reference's standard deviations; a step size means the same for every signal then."""

    def __init__(self, inner: Detector, scale: Any) -> None:
        self._inner, self._scale = inner, scale

    def alarm(self, frame: Any) -> bool:
        return self._inner.alarm((frame / self._scale).tolist())


class Windows:
    """A test of windows of 500 frames."""

    def __init__(self, is_drift: Callable[[Any], bool]) -> None:
        self._is_drift = is_drift
        self._rows: list[Any] = []

    def alarm(self, frame: Any) -> bool:
        self._rows.append(frame)
        if len(self._rows) < WINDOW:
            return False
        window, self._rows = np.stack(self._rows), []
        return self._is_drift(window)


def river_entries(data: Any) -> Iterator[Entry]:
    """Yield river's detectors."""
    from river import drift

    scale, count = np.maximum(data["reference"].std(axis=0), 1e-9), data["columns"].shape[1]

    def every(make: Callable[[Any], Any]) -> Callable[[Any], Detector]:
        return lambda setting: Scaled(Every(lambda: River(make(setting)), count), scale)

    yield Entry("river ADWIN, every signal", every(lambda d: drift.ADWIN(delta=d)), (0.3, 0.1, 0.03, 0.01, 0.002))
    hinkley = every(lambda limit: drift.PageHinkley(threshold=limit))
    yield Entry("river PageHinkley, every signal", hinkley, (10.0, 15.0, 20.0, 30.0, 50.0, 80.0))


def frouros_entries(data: Any) -> Iterator[Entry]:
    """Yield frouros's detector."""
    reference = data["reference"][:, list(data["names"]).index(ONE)]
    name = f"frouros IncrementalKSTest, {ONE}"
    yield Entry(name, lambda level: IncrementalKs(reference, level), (1e-3, 1e-5), "one", 0.25)


def alibi_entries(data: Any) -> Iterator[Entry]:
    """Yield alibi-detect's detectors that need neither PyTorch nor TensorFlow."""
    from alibi_detect.cd import KSDrift

    def ks(level: float) -> Detector:
        test = KSDrift(data["reference_scores"].astype(np.float32), p_val=level)
        return Windows(lambda window: bool(test.predict(window.astype(np.float32))["data"]["is_drift"]))

    yield Entry("alibi-detect KSDrift on scores, windows of 500", ks, (0.05,), "scores")


ENTRIES = {"river": river_entries, "frouros": frouros_entries, "alibi-detect": alibi_entries}


def frames_of(data: Any, entry: Entry) -> Any:
    """Return the part of the pool that a detector looks at."""
    if entry.column == "scores":
        return data["scores"]
    return data["columns"][:, list(data["names"]).index(ONE)] if entry.column == "one" else data["columns"]


def false_alarms(entry: Entry, setting: Any, pool: Any, streams: Any) -> tuple[float, float]:
    """Return false alarms per 10,000 clean frames, and the time a frame in microseconds."""
    length = max(int(streams.shape[1] * entry.share), 1200)
    alarms = 0
    began_s = time.perf_counter()
    for stream in streams:
        detector = entry.make(setting)
        for row in stream[:length]:
            alarms += detector.alarm(pool[row])
    frames = len(streams) * length
    return alarms / frames * 10_000, (time.perf_counter() - began_s) / frames * 1e6


def first_alarm(entry: Entry, setting: Any, pool: Any, stream: Any, lead: int) -> int:
    """Return the number of the first drifting frame, from 1, at which the detector alarms; 0 for none."""
    detector = entry.make(setting)
    for number, row in enumerate(stream, 1):
        if detector.alarm(pool[row]) and number > lead:
            return number - lead
    return 0


def measure(entry: Entry, data: Any) -> dict[str, object]:
    """Choose the setting, then find the delays."""
    pool, lead = frames_of(data, entry), int(data["lead"])
    rate, taken_us, setting = 0.0, 0.0, entry.settings[-1]
    for setting in entry.settings:
        rate, taken_us = false_alarms(entry, setting, pool, data["clean"])
        if rate <= ALLOWED:
            break
    runs = data["drift"] if entry.share >= 1.0 else data["drift"][:, :1]  # one stream of each scenario
    delays = [[first_alarm(entry, setting, pool, stream, lead) for stream in streams] for streams in runs]
    return {"name": entry.name, "setting": setting, "rate": rate, "us": taken_us, "delays": delays}


def main() -> None:
    """Print what the detectors of one library do."""
    warnings.simplefilter("ignore")
    library, path = sys.argv[1:]
    with np.load(path) as found:
        data = {name: found[name] for name in found.files}
    print(json.dumps([measure(entry, data) for entry in ENTRIES[library](data)]))


if __name__ == "__main__":
    main()
