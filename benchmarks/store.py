"""How soon does the store answer what dashboards ask, over 10 million rows of telemetry of 10,000 devices?

The lake is made once, in about two minutes, in ``.tools/store-benchmark`` (``--folder`` names another), and kept. Each
question goes through the store's own ports: it opens the tables, reads, merges histograms and builds the rows. The row
from telemetry asks the raw rows what the row before asks the roll-up by minutes.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from measure import fleet_rows
from measure.big_lake import DAY, DEVICES, SAMPLES, STEPS, big_lake, model_name
from measure.report import Limit, Report, Row, run

from dsops.clock import ManualClock, SystemClock
from dsops_controller.alerts.alerts import Alerts
from dsops_controller.dataops import queries
from dsops_controller.dataops.drift.fleet_drift import FDR
from dsops_controller.dataops.history import Ask, LakeHistory, Span
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.dataops.lake.inspection import Inspector
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.views import Views, Want
from dsops_controller.dataops.latest import HOST
from dsops_controller.dataops.samples.samples import SampleFilter
from dsops_controller.dataops.store import LakeStore
from dsops_controller.db import migrate
from dsops_controller.db.database import Database
from dsops_controller.db.times import to_ms
from dsops_controller.monitoring.figures import Monitoring
from dsops_controller.monitoring.metrics import metrics
from dsops_controller.monitoring.prometheus import exposition
from dsops_controller.server.app import settled
from dsops_controller.server.broker import BrokerFigures

FOLDER = Path(__file__).parents[1] / ".tools" / "store-benchmark"
ROUNDS = 11
HOUR = Span(DAY + timedelta(hours=20), DAY + timedelta(hours=21))
WHOLE_DAY = Span(DAY, DAY + timedelta(days=1))
EVENING = SampleFilter(model=model_name(1), since=HOUR.since - timedelta(hours=8), until=HOUR.until)
DEVICE = "camera-004321"
WATCHED = 2
"""Models that each device watches for drift."""


def main(arguments: list[str]) -> int:
    """Measure and report; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the lake is, or is made")
    with settled():  # as in the server, where no answer waits until the collector has looked through every module
        return run(partial(measure, parser.parse_args(arguments).folder))


def measure(folder: Path) -> Report:
    """Ask every question some times, in turns."""
    db, lake, made_s = big_lake(folder)
    migrate.upgrade(db)
    fleet_rows.fill(db, DEVICES, WATCHED, to_ms(DAY))
    questions = _questions(db, lake)
    walls: dict[str, list[float]] = {name: [] for name in questions}
    processors: dict[str, list[float]] = {name: [] for name in questions}
    for number in range(ROUNDS + 1):
        for name, (ask, expected, _) in questions.items():
            began = time.perf_counter(), time.process_time()
            found = ask()
            if number:  # the first one warms up
                walls[name].append((time.perf_counter() - began[0]) * 1000)
                processors[name].append((time.process_time() - began[1]) * 1000)
            if found != expected:
                raise AssertionError(f"{name}: {found} answers, not {expected}")
    rows = [Row(name, "ms", statistics.median(walls[name]), limit=limit) for name, (*_, limit) in questions.items()]
    rows += [Row(f"{name}: processor", "ms", statistics.median(processors[name])) for name in questions]
    files = {row.table: row for row in Inspector(db, lake, Pins(lake, SystemClock())).tables()}
    facts = {
        "rows": files[LakeTable.TELEMETRY].rows,
        "devices": DEVICES,
        "bytes a row": round(files[LakeTable.TELEMETRY].bytes / files[LakeTable.TELEMETRY].rows, 1),
        "files": files[LakeTable.TELEMETRY].files,
        "rows of minutes": files[LakeTable.MINUTES].rows,
        "samples": SAMPLES,
        "made in s": round(made_s, 1),
        "load": round(os.getloadavg()[0], 1),
    }
    once = [_once("every identity counted", LakeStore(db, lake).counts), _once("everything checked", _check(db, lake))]
    db.close()
    return Report("store", "Questions to the store, median", facts, (*rows, *once))


Question = tuple[Callable[[], int], int, Limit | None]


def _questions(db: Database, lake: Lake) -> dict[str, Question]:
    history, store, ask = LakeHistory(db, lake), LakeStore(db, lake), Ask()
    monitoring = _monitoring(db)
    five = timedelta(minutes=5)
    of_device = Ask(model=model_name(1), device=DEVICE)
    return {
        "newest figures of 10,000 devices": (lambda: len(history.latest(HOST)), DEVICES, _at_most(100)),
        "the same and of their models, 20,000": (lambda: len(history.latest()), 2 * DEVICES, None),
        "p95 by model and release, one hour": (lambda: len(history.distribution(HOUR, ask)), 16, _at_most(200)),
        "the same from telemetry": (lambda: _raw(db, lake), 16, None),
        "one day in 5-minute buckets": (lambda: len(history.series(WHOLE_DAY, five, ask)), 288 * 16, _at_most(1000)),
        "the same of one model": (lambda: len(history.series(WHOLE_DAY, five, Ask(model=model_name(1)))), 1152, None),
        "the same of one device": (lambda: len(history.series(WHOLE_DAY, five, of_device)), 288, None),
        "500 samples of a model in 9 hours": (lambda: len(history.tensors(EVENING, 500)), 500, _at_most(300)),
        "500 samples listed": (lambda: len(store.samples(EVENING, 500)), 500, None),
        "/metrics, drift of 10,000 devices": (lambda: _scraped(monitoring), DEVICES * WATCHED, _at_most(300)),
    }


def _raw(db: Database, lake: Lake) -> int:
    """Merge the histograms of the raw rows of the hour."""
    text = queries.SERIES_ROWS.replace("TABLE", "telemetry").replace("OF_", "latency_").replace("BY_DEVICE", "")
    params = HOUR.scope().params() | {"bucket_us": 1 << 60, "origin_us": 0}
    del params["device"]
    with Views(db, lake).open(Want(LakeTable.TELEMETRY, HOUR.scope())) as duck:
        duck.execute(text, params)
        return len(duck.execute(queries.SERIES_BUCKETS).fetchall())


def _monitoring(db: Database) -> Monitoring:
    clock = ManualClock(DAY)  # when the devices were heard of
    courier = BrokerFigures(
        connected=True,
        connections=1,
        published=0,
        received=0,
        refused=0,
        foreign=0,
        overwritten=0,
        bytes_in=0,
        bytes_out=0,
    )
    return Monitoring(db, Alerts("fleet", db, clock), clock, lambda: courier, lambda: 0, FDR)


def _scraped(monitoring: Monitoring) -> int:
    """Return how many monitors of drift the text counts."""
    lines = exposition(metrics(monitoring.figures())).splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith("dsops_drift_devices{"))


def _check(db: Database, lake: Lake) -> Callable[[], object]:
    return Inspector(db, lake, Pins(lake, SystemClock())).check


def _once(name: str, call: Callable[[], object]) -> Row:
    began_s = time.perf_counter()
    call()
    return Row(f"{name}, once", "ms", (time.perf_counter() - began_s) * 1000)


def _at_most(ms: float) -> Limit:
    return Limit("figure", "<=", ms)


if __name__ == "__main__":
    assert STEPS * DEVICES == 10_000_000
    sys.exit(main(sys.argv[1:]))
