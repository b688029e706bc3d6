"""Runs in a library's own environment: shows its detectors the streams of a file, and prints when each alarmed.

``python drift_peer.py LIBRARY STREAMS`` prints JSON: for each detector its setting, false alarms in 10,000 clean
frames, the frame of the first alarm in each drifting stream (0: none), and its time a frame. Each detector has the most
sensitive setting of its grid that raises at most one false alarm in 10,000 clean frames. Where a detector takes one
number, every signal has one, and any of them may alarm.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Data = dict[str, NDArray[np.generic]]
Alarm = Callable[[Numbers], bool]
"""Takes a frame; returns whether an alarm begins with it. After an alarm the detector begins anew."""
Make = Callable[[float], Alarm]
"""Makes a detector from a setting."""

ALLOWED = 1.0
"""False alarms per 10,000 frames."""
WINDOW = 500
ONE = "confidence"
"""Signal for a detector that takes too long for all of them."""


class RiverDetector(Protocol):
    """A drift detector of river."""

    drift_detected: bool

    def update(self, value: float) -> None:
        """Take a number."""
        ...


@dataclass(frozen=True)
class Entry:
    """A detector with its settings, the most sensitive first; ``share`` of the clean frames are shown."""

    name: str
    make: Make
    settings: tuple[float, ...]
    sees: str = "all"
    share: float = 1.0


def river_entries(data: Data) -> Iterator[Entry]:
    """Yield river's detectors."""
    drift = import_module("river.drift")
    scale = np.maximum(np.asarray(data["reference"], np.float64).std(axis=0), 1e-9)
    adwin = (0.3, 0.1, 0.03, 0.01, 0.002)
    hinkley = (20.0, 40.0, 80.0, 120.0, 180.0, 300.0)
    yield Entry("river ADWIN, every signal", _every(lambda level: drift.ADWIN(delta=level), scale), adwin)
    yield Entry("river PageHinkley, every signal", _every(lambda top: drift.PageHinkley(threshold=top), scale), hinkley)


def frouros_entries(data: Data) -> Iterator[Entry]:
    """Yield frouros's detector."""
    streaming = import_module("frouros.detectors.data_drift")
    reference = data["reference"][:, _column(data, ONE)]
    make = _incremental_ks(streaming, np.asarray(reference, np.float64))
    yield Entry(f"frouros IncrementalKSTest, {ONE}", make, (1e-2, 1e-3, 1e-5), "one", 0.25)


def alibi_entries(data: Data) -> Iterator[Entry]:
    """Yield alibi-detect's test, which needs neither PyTorch nor TensorFlow."""
    detectors = import_module("alibi_detect.cd")
    reference = np.asarray(data["reference_scores"], np.float32)

    def make(level: float) -> Alarm:
        test = detectors.KSDrift(reference, p_val=level)
        rows: list[Numbers] = []

        def alarm(frame: Numbers) -> bool:
            rows.append(frame)
            if len(rows) < WINDOW:
                return False
            window = np.stack(rows).astype(np.float32)
            rows.clear()
            return bool(test.predict(window)["data"]["is_drift"])

        return alarm

    yield Entry("alibi-detect KSDrift on scores, windows of 500", make, (0.2, 0.05), "scores")


def _every(make: Callable[[float], RiverDetector], scale: Numbers) -> Make:
    """Return what makes one detector a signal; divided by its standard deviation, a step means the same for each."""

    def make_alarm(setting: float) -> Alarm:
        detectors = [make(setting) for _ in scale]

        def alarm(frame: Numbers) -> bool:
            for detector, value in zip(detectors, (frame / scale).tolist(), strict=True):
                detector.update(value)
            if not any(detector.drift_detected for detector in detectors):
                return False
            detectors[:] = [make(setting) for _ in scale]
            return True

        return alarm

    return make_alarm


def _incremental_ks(streaming: ModuleType, reference: Numbers) -> Make:
    def make_alarm(level: float) -> Alarm:
        def begin() -> None:
            detectors[:] = [streaming.IncrementalKSTest(window_size=100)]
            detectors[0].fit(X=reference)

        def alarm(frame: Numbers) -> bool:
            found, _ = detectors[0].update(value=float(frame))
            is_drift = found is not None and bool(found.p_value < level)
            if is_drift:
                begin()
            return is_drift

        detectors = [streaming.IncrementalKSTest(window_size=100)]
        begin()
        return alarm

    return make_alarm


ENTRIES = {"river": river_entries, "frouros": frouros_entries, "alibi-detect": alibi_entries}


def frames_of(data: Data, entry: Entry) -> Numbers:
    """Return the part of the pool that a detector looks at."""
    if entry.sees == "scores":
        return np.asarray(data["scores"], np.float64)
    columns = np.asarray(data["columns"], np.float64)
    return columns[:, _column(data, ONE)] if entry.sees == "one" else columns


def false_alarms(entry: Entry, setting: float, pool: Numbers, streams: NDArray[np.intp]) -> tuple[float, float]:
    """Return false alarms per 10,000 clean frames, and the time a frame in microseconds."""
    length = int(streams.shape[1] * entry.share)
    alarms = 0
    began_s = time.perf_counter()
    for stream in streams:
        alarm = entry.make(setting)
        alarms += sum(alarm(pool[row]) for row in stream[:length])
    frames = len(streams) * length
    return alarms / frames * 10_000, (time.perf_counter() - began_s) / frames * 1e6


def first_alarm(entry: Entry, setting: float, pool: Numbers, stream: NDArray[np.intp], lead: int) -> int:
    """Return the number of the first drifting frame, from 1, at which the detector alarms; 0 for none."""
    alarm = entry.make(setting)
    for number, row in enumerate(stream, 1):
        if alarm(pool[row]) and number > lead:
            return number - lead
    return 0


def measure(entry: Entry, data: Data) -> dict[str, object]:
    """Choose the setting, then find the delays."""
    pool, lead = frames_of(data, entry), int(data["lead"])
    rate, taken_us, setting = 0.0, 0.0, entry.settings[-1]
    for setting in entry.settings:
        rate, taken_us = false_alarms(entry, setting, pool, np.asarray(data["clean"], np.intp))
        if rate <= ALLOWED:
            break
    drift = np.asarray(data["drift"], np.intp)
    runs = drift if entry.share >= 1.0 else drift[:, :1]  # one stream of each scenario
    delays = [[first_alarm(entry, setting, pool, stream, lead) for stream in streams] for streams in runs]
    return {"name": entry.name, "setting": setting, "rate": rate, "us": taken_us, "delays": delays}


def main() -> None:
    """Print what the detectors of one library do."""
    warnings.simplefilter("ignore")
    library, path = sys.argv[1:]
    with np.load(path) as found:
        data = {name: found[name] for name in found.files}
    print(json.dumps([measure(entry, data) for entry in ENTRIES[library](data)]))


def _column(data: Data, name: str) -> int:
    return [str(one) for one in data["names"]].index(name)


if __name__ == "__main__":
    main()
