"""What the drift monitor costs a frame, how often it cries wolf, and how soon it sees shifts of real images.

The frames are MNIST's test images (profile of 2,000) and scikit-learn's digits (profile of 500), each answered by an
int8 model that is built here. The shifts are the 27 settings of "Failing Loudly" (Rabanser et al., NeurIPS 2019), but
for the adversarial ones. Clean streams are independent draws, bursts of one class, and held frames. River, frouros and
alibi-detect are shown the same streams in environments of their own (``tools/peers.sh river frouros alibi-detect``);
without these their rows say so. ``--quick`` shows fewer frames, and no library.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from measure.cameras import Camera, Floats, digits, mnist
from measure.drift_batches import noisy_test, window_test
from measure.drift_faults import (
    FAULTS,
    REFERENCE,
    SYNTHETIC,
    Fault,
    pool_with,
    profile_of,
    rows_of_elec2,
    stream,
    synthetic_rows,
)
from measure.drift_footprint import footprint
from measure.drift_libraries import Peer, Started, started, versions
from measure.drift_profiles import profile_of as made_profile
from measure.drift_rates import Make, Monitor, Power, Windows, false_alarms, power
from measure.drift_streams import HELD, Pool, Rows, bursts, drifting, held, independent, pool_of, save
from measure.model import SEED
from measure.report import Limit, Report, Row, run
from measure.shifts import scenarios
from measure.windows import WindowTest

from dsops.profile import Profile
from dsops_agent.drift.monitor import DriftMonitor, Level
from dsops_agent.drift.report import USUAL_REPORTS, Interval, Standing, make_report
from dsops_agent.drift.skew import FRAMES, Skew, State
from dsops_agent.runtime.observe import SLICE_FRAMES

ARL0 = 1e4
"""Frames between two false alarms, as the marks want it; the product's default is 1e6."""
LEAD, LONGEST = 400, 2500
CORRELATED_LEAD = 1500
"""Clean frames before a shift of a correlated stream: the monitor learns its correlation from them."""
LONG = 60_000
SMALL = 500
FALSE, CORRELATED = Limit("figure", "<=", 2.0), Limit("figure", "<=", 5.0)
SOON, LATER, SMALL_SOON = (Limit("figure", ">=", value) for value in (0.85, 0.95, 0.80))
FEWER = Limit("ratio", "<=", 1.0)


@dataclass(frozen=True)
class Effort:
    """How much is shown."""

    clean: int
    clean_length: int
    runs: int
    windows: int
    long: int


FULL, QUICK = Effort(12, 10_000, 8, 4, 40), Effort(4, 6_000, 1, 1, 1)


@dataclass(frozen=True)
class Bench:
    """A camera, its frames, and streams of them: clean ones, and for each setting some that shift after ``LEAD``."""

    camera: Camera
    pool: Pool
    clean: Sequence[Rows]
    drift: Sequence[Sequence[Rows]]

    def profile(self, arl0: float = ARL0) -> Profile:
        """Return the camera's profile for another rate of false alarms."""
        return self.camera.profile.model_copy(update={"arl0": arl0})


def bench_of(camera: Camera, effort: Effort) -> Bench:
    """Draw the streams."""
    rng = np.random.default_rng(SEED + 1)
    clean = [independent(camera, effort.clean_length, rng) for _ in range(effort.clean)]
    drift = [
        [
            np.concatenate([independent(camera, LEAD, rng), drifting(camera, one, LONGEST, rng)])
            for _ in range(effort.runs)
        ]
        for one in scenarios()
    ]
    return Bench(camera, pool_of(camera), clean, drift)


def monitor(profile: Profile) -> Make:
    """Return what makes the product's monitor."""
    return lambda: Monitor(profile)


def cost_rows(bench: Bench) -> Iterator[Row]:
    """Yield time, memory and sizes."""
    profile, pool = bench.profile(), bench.pool
    watching = DriftMonitor(profile)
    groups = [pool.frames(bench.clean[0][at : at + SLICE_FRAMES]) for at in range(0, 4000, SLICE_FRAMES)]
    most = watching.state_bytes
    taken = []
    for group in groups:
        began_s = time.perf_counter()
        watching.feed(group)
        taken.append((time.perf_counter() - began_s) / SLICE_FRAMES * 1e6)
    yield Row("monitor, a frame, in groups of 16", "us", statistics.median(taken), limit=Limit("figure", "<=", 30.0))
    yield Row("state", "bytes", float(most), limit=Limit("figure", "<=", 16384.0))
    encoded = bench.camera.profile.encode()
    yield Row("profile", "bytes", float(len(encoded)), limit=Limit("figure", "<=", 4096.0))
    yield Row("report of 8 signals and 500 frames", "bytes", report_bytes(bench), limit=Limit("figure", "<=", 400.0))
    with tempfile.NamedTemporaryFile(prefix="ds") as file:
        file.write(encoded)
        file.flush()
        resident, packages = footprint(Path(file.name))
    yield Row("memory that it adds to NumPy", "MB", resident / 1e6, limit=Limit("figure", "<=", 1.0))
    yield Row("packages that it adds to NumPy", "", float(len(packages)), limit=Limit("figure", "<=", 0.0))


def report_bytes(bench: Bench) -> float:
    """Return the size of a report of an interval without drift, of eight signals as the marks count."""
    profile = bench.profile()
    watching = DriftMonitor(profile.model_copy(update={"signals": profile.signals[:8]}))
    verdict = watching.feed(bench.pool.frames(bench.clean[0][:500]))[-1]
    us, ok = 1_767_225_600_000_000, Skew(State.OK, FRAMES, 0.5)
    standing = Standing(Level.OK, verdict.score, 500, 0, 0, watching.log_e, us, 500, 500, watching.stand(), ok)
    return float(make_report(Interval(us, 60_000, "digits", 1, "ab" * 32), standing, USUAL_REPORTS).ByteSize())


def rates(bench: Bench, effort: Effort) -> Iterator[Row]:
    """Yield false alarms on independent and correlated streams."""
    make, rng = monitor(bench.profile()), np.random.default_rng(SEED + 2)
    name, pool, unit = bench.camera.name, bench.pool, "per 10,000"
    peer = false_alarms(lambda: Windows(WindowTest(bench.camera.profile)), pool, bench.clean)
    found = false_alarms(make, pool, bench.clean)
    yield Row(f"{name}: false alarms, independent frames", unit, found, peer, "chi-square, windows of 500", FALSE)
    far = np.random.default_rng(SEED + 7)
    long = [independent(bench.camera, LONG, far) for _ in range(effort.long)]
    yield Row(f"{name}: false alarms, {len(long)} streams of 60,000", unit, false_alarms(make, pool, long), limit=FALSE)
    count = max(effort.clean // 2, 2)
    burst = [bursts(bench.camera, effort.clean_length, rng) for _ in range(count)]
    yield Row(f"{name}: false alarms, bursts of a class", unit, false_alarms(make, pool, burst), limit=CORRELATED)
    for times in HELD:
        rows = [held(stream, times) for stream in bench.clean[:count]]
        found = false_alarms(make, pool, rows)
        yield Row(f"{name}: false alarms, frames held {times} times", unit, found, limit=CORRELATED)


def found_rows(name: str, found: Power, soon: Limit, later: Limit | None) -> Iterator[Row]:
    """Yield the shares of scenarios that were found, and the median delay."""
    yield Row(f"{name}: shifts found within 500 frames", "share", found.within(500), limit=soon)
    yield Row(f"{name}: shifts found within 2,500 frames", "share", found.within(2500), limit=later)
    yield Row(f"{name}: to the alarm, median of 27 settings", "frames", found.median)


def correlated_rows(bench: Bench, effort: Effort) -> Iterator[Row]:
    """Yield how soon shifts inside held frames are found."""
    rng, camera = np.random.default_rng(SEED + 3), bench.camera
    wanted = [one for one in scenarios() if one.share == 0.5 and not one.only and one.change]
    streams = []
    for one in wanted:
        made = []
        for _ in range(effort.runs):
            rows = np.concatenate([independent(camera, CORRELATED_LEAD, rng), drifting(camera, one, 1000, rng)])
            lead = np.repeat(rows[: CORRELATED_LEAD // 5], 5)
            made.append(np.concatenate([lead, np.repeat(rows[CORRELATED_LEAD:], 5)]))
        streams.append(made)
    found = power(monitor(bench.profile()), bench.pool, streams, CORRELATED_LEAD)
    yield Row(f"{camera.name}: half of held frames shifted, found within 2,500", "share", found.within(2500))
    yield Row(f"{camera.name}: the same, to the alarm", "frames", found.median)


def small_rows(bench: Bench, effort: Effort) -> Iterator[Row]:
    """Yield what is left with profiles of 500 frames."""
    rng = np.random.default_rng(SEED + 4)
    columns = bench.camera.reference.columns
    profiles = [made_profile(bench.camera, rng.permutation(columns)[:SMALL], ARL0) for _ in range(effort.runs)]
    wrong = [false_alarms(monitor(one), bench.pool, bench.clean[:3]) for one in profiles]
    name = f"{bench.camera.name}, profile of 500"
    yield Row(f"{name}: false alarms, independent frames", "per 10,000", statistics.mean(wrong), limit=FALSE)
    streams = [[rows[at] for rows in bench.drift] for at in range(effort.runs)]
    parts = [power(monitor(one), bench.pool, [[rows] for rows in streams[at]], LEAD) for at, one in enumerate(profiles)]
    delays = zip(*(part.delays for part in parts), strict=True)
    yield from found_rows(name, Power(tuple(sum(one, ()) for one in delays)), SMALL_SOON, None)


def library_rows(bench: Bench, libraries: Sequence[Started], ours: Power) -> Iterator[Row]:
    """Yield each library's detectors beside the monitor at no more false alarms."""
    for library in libraries:
        peers = library.result()
        if not peers:
            yield Row(f"{library.library}: not measured", "frames", ours.median)
        for peer in peers:
            yield from peer_rows(bench, peer, ours)


def peer_rows(bench: Bench, peer: Peer, ours: Power) -> Iterator[Row]:
    """Yield one detector's delay, power, false alarms and cost."""
    medians = finite(ours.median), finite(peer.power.median)
    yield Row("to the alarm, median of 27 settings", "frames", *medians, peer.name, FEWER)
    yield Row("shifts found within 2,500 frames", "share", ours.within(2500), peer.power.within(2500), peer.name)
    wrong = false_alarms(monitor(bench.profile()), bench.pool, bench.clean[:4])
    yield Row("false alarms, independent frames", "per 10,000", wrong, peer.rate, peer.name)
    yield Row("detector, a frame", "us", None, peer.us, peer.name)


def finite(figure: float) -> float | None:
    """Return a figure, or None for one that never came."""
    return figure if figure < float("inf") else None


def batch_rows(bench: Bench, effort: Effort) -> Iterator[Row]:
    """Yield the controller's tests of reports."""
    rng = np.random.default_rng(SEED + 5)
    for size, wanted in ((100, 0.60), (1000, 0.80)):
        found = window_test(bench.camera, bench.pool, size, effort.windows, rng)
        name = f"test of a report of {size:,} frames"
        yield Row(f"{name}: false positives", "share", found.false, limit=Limit("figure", "<=", 0.07))
        yield Row(f"{name}: power, 27 settings", "share", found.power, limit=Limit("figure", ">=", wanted))
    found = noisy_test(bench.camera, bench.pool, effort.windows * 25, rng)
    yield Row("report with noise, epsilon 1: false positives", "share", found.false, limit=Limit("figure", "<=", 0.07))
    yield Row("report with noise: power, worst of 3 shifts", "share", found.power, limit=Limit("figure", ">=", 0.90))


def table_rows(name: str, rows: Floats, faults: Mapping[str, Fault], effort: Effort) -> Iterator[Row]:
    """Yield how soon changes of a table's columns are found; each is a signal."""
    rng = np.random.default_rng(SEED + 6)
    make = monitor(profile_of(rows[:REFERENCE], ARL0))
    rest = rows[REFERENCE:]
    count = max(effort.clean // 2, 2)
    clean = [rng.integers(len(rest), size=effort.clean_length).astype(np.int32) for _ in range(count)]
    wrong = false_alarms(make, pool_with(rest, None, rng), clean)
    yield Row(f"{name}: false alarms, independent rows", "per 10,000", wrong, limit=FALSE)
    for kind, fault in faults.items():
        pool = pool_with(rest, fault, rng)
        found = power(make, pool, [[stream(len(rest), LEAD, LONGEST, rng) for _ in range(effort.runs)]], LEAD)
        yield Row(f"{name}: {kind}", "frames", finite(found.median))


def measure(*, quick: bool) -> Report:
    """Measure everything; libraries work beside us."""
    effort = QUICK if quick else FULL
    bench = bench_of(mnist(), effort)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ds") as folder:
        path = Path(folder) / "streams.npz"
        save(
            path,
            bench.camera,
            bench.pool,
            np.stack(bench.clean[:4]),
            np.stack([runs[:2] for runs in bench.drift]),
            LEAD,
        )
        rows += cost_rows(bench)
        with started(path, quick=quick) as libraries:
            rows += rates(bench, effort)
            ours = power(monitor(bench.profile()), bench.pool, bench.drift, LEAD)
            rows += found_rows(bench.camera.name, ours, SOON, LATER)
            rows += small_rows(bench, effort)
            rows += correlated_rows(bench, effort)
            rows += batch_rows(bench, effort)
            rows += digit_rows(effort)
            rows += table_rows("Elec2", rows_of_elec2(SEED), FAULTS, effort)
            rows += table_rows("normal signals", synthetic_rows(SEED), SYNTHETIC, effort)
            rows += library_rows(bench, libraries, ours)
    facts: dict[str, object] = {"ARL0": f"{ARL0:,.0f}", "accuracy": f"{bench.camera.accuracy:.1%}", **versions()}
    return Report("drift", f"Drift: a dash is a shift not seen within {LONGEST:,} frames", facts, tuple(rows))


def digit_rows(effort: Effort) -> Iterator[Row]:
    """Yield the same for the demonstration's digits, whose profile has 500 frames."""
    bench = bench_of(digits(), effort)
    yield from rates(bench, effort)
    found = power(monitor(bench.profile()), bench.pool, bench.drift, LEAD)
    yield from found_rows(bench.camera.name, found, SMALL_SOON, None)


if __name__ == "__main__":
    sys.exit(run(partial(measure, quick="--quick" in sys.argv[1:])))
