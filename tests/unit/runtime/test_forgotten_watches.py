"""A watch lives as long as its bundle is served, and is let go of however quickly bundles follow each other."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

from runtime_bundles import frames, make_bundle

from dsops.bundle import Bundle
from dsops.clock import SystemClock
from dsops_agent.runtime.answer import Exchange
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.health import Health
from dsops_agent.runtime.observe import Observation
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.report import Reporter
from dsops_agent.runtime.sample_budgets import SampleBudgets
from dsops_agent.runtime.sample_settings import SampleSettings
from dsops_agent.runtime.samples import Sampling
from dsops_agent.runtime.swap import Serving
from dsops_agent.runtime.watch import ModelWatch

USUAL = SampleSettings()


def make_watch(
    served: ServedModel, put: Callable[[Kind, bytes, bool], None], settings: SampleSettings = USUAL
) -> ModelWatch:
    clock = SystemClock()
    sampling = Sampling(settings, lambda: 0.5, SampleBudgets(settings, clock))
    return ModelWatch(served, sampling, put, clock, drift_enabled=True)


class Circle:
    """Refers to itself: only the garbage collector frees it."""

    def __init__(self) -> None:
        self.other = self


def left_in_a_circle() -> "weakref.ref[Circle]":
    return weakref.ref(Circle())


def test_a_bundle_that_was_replaced_within_an_interval_is_forgotten(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(made.path), made.digest, 1)
    serving: list[Serving] = []
    reporter = Reporter(make_watch, lambda: serving, lambda: None, lambda patience_s: None, 10.0, SystemClock())
    quick = weakref.ref(reporter.watch(served))  # never served when an interval ends
    stays = Serving(served, reporter.watch(served), Health(served, SystemClock()))
    serving.append(stays)
    reporter.end_intervals()
    assert quick() is not None  # it might be about to be served
    garbage = left_in_a_circle()
    gc.disable()
    try:
        reporter.end_intervals()
        assert quick() is None
        assert garbage() is None, "what it had is collected, so that it can be given back"
        garbage = left_in_a_circle()
        reporter.end_intervals()
        assert garbage() is not None, "nothing was forgotten: requests are not held up for it"
    finally:
        gc.enable()
    stays.watch.failed()
    reporter.end_intervals()
    assert reporter.buffer.waiting == 1


def test_a_watch_that_has_still_to_report_keeps_no_interpreter(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(made.path), made.digest, 1)
    interpreter = weakref.ref(served.loaded)
    reporter = Reporter(make_watch, list, lambda: None, lambda patience_s: None, 10.0, SystemClock())
    watch = reporter.watch(served)
    inputs = {"image": frames(2)}
    answer = served.infer(inputs)
    del served
    gc.collect()
    assert interpreter() is None
    watch.answered(answer)  # the last request in flight
    watch.observe([Exchange(inputs, answer, "")])
    reporter.end_intervals()
    assert reporter.buffer.waiting == 2, "an interval and a report of drift"


def test_samples_of_a_replaced_bundle_do_not_wait_for_the_end_of_their_period(tmp_path: Path) -> None:
    """Else every release of a quarter of an hour would keep its watch and its samples in memory."""
    made = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(made.path), made.digest, 1)
    keen = partial(make_watch, settings=SampleSettings(random_rate=1.0))
    reporter = Reporter(keen, list, lambda: None, lambda patience_s: None, 10.0, SystemClock())
    watch = reporter.watch(served)
    left = weakref.ref(watch)
    inputs = {"image": frames(8)}
    watch.observe([Exchange(inputs, served.infer(inputs), "")])
    for _ in range(2):
        reporter.end_intervals()
    del watch
    gc.collect()
    assert left() is None
    batch = reporter.buffer.batch()
    assert batch is not None
    assert Kind.SAMPLES.value in batch.header("a")["kinds"]


def test_a_request_that_outlives_its_bundle_for_long_is_counted(tmp_path: Path) -> None:
    """Many frames on a slow device take several intervals."""
    made = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(made.path), made.digest, 1)
    active: list[Serving] = []
    reporter = Reporter(make_watch, lambda: active, lambda: None, lambda patience_s: None, 10.0, SystemClock())
    under_way = Serving(served, reporter.watch(served), Health(served, SystemClock()))
    left = weakref.ref(under_way.watch)
    active.append(under_way)
    reporter.end_intervals()
    active.clear()
    for _ in range(4):
        reporter.end_intervals()
    under_way.watch.failed()
    reporter.end_intervals()
    assert reporter.buffer.waiting == 1
    del under_way
    for _ in range(2):
        reporter.end_intervals()
    gc.collect()
    assert left() is None


def test_what_waits_to_be_looked_at_keeps_no_interpreter(tmp_path: Path) -> None:
    """On a busy device it waits while many releases follow each other."""
    made = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(made.path), made.digest, 1)
    interpreter = weakref.ref(served.loaded)
    serving = Serving(served, make_watch(served, lambda *_: None), Health(served, SystemClock()))
    inputs = {"image": frames(2)}
    waiting = Observation.of(serving, inputs, served.infer(inputs), "")
    del served, serving
    gc.collect()
    assert interpreter() is None
    assert waiting.frames == 2
