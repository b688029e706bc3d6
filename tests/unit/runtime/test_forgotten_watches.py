"""A watch lives as long as its bundle is served, and is let go of however quickly bundles follow each other."""

import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from runtime_bundles import MadeBundle, frames, make_bundle
from runtime_tasks import make_line, make_twin

from dsops.bundle import Bundle
from dsops.clock import SystemClock
from dsops_agent.runtime.answer import Exchange
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.health import Health
from dsops_agent.runtime.observe import Observation, Observers
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.report import Reporter
from dsops_agent.runtime.sample_budgets import SampleBudgets
from dsops_agent.runtime.sample_settings import SampleSettings
from dsops_agent.runtime.samples import Sampling
from dsops_agent.runtime.swap import Models, Serving
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


def yes() -> bool:
    return True


def reporter_of(
    made: Callable[[ServedModel, Callable[[Kind, bytes, bool], None]], ModelWatch] = make_watch,
    mark: Callable[[], Callable[[], bool]] = lambda: yes,
    interval_s: float = 10.0,
) -> Reporter:
    return Reporter(made, lambda: None, lambda patience_s: None, mark, interval_s, SystemClock())


def load(folder: Path) -> ServedModel:
    made = make_bundle(folder)
    return load_bundle(Bundle.open(made.path), made.digest, 1)


def test_a_bundle_is_forgotten_once_nothing_serves_it_and_what_it_had_is_given_back(tmp_path: Path) -> None:
    reporter, served, other = reporter_of(), load(tmp_path), load(tmp_path)
    quick, stays = weakref.ref(reporter.watch(served)), reporter.watch(other)
    reporter.end_replaced()
    reporter.end_intervals()
    assert quick() is not None  # it is about to be served
    garbage = left_in_a_circle()
    gc.disable()
    try:
        reporter.end_replaced()
        assert garbage() is not None, "nothing was forgotten: requests are not held up for it"
        del served
        reporter.end_replaced()
        assert quick() is None
        assert garbage() is None, "what it had is collected, so that it can be given back"
    finally:
        gc.enable()
    stays.failed()
    reporter.end_replaced()
    assert reporter.buffer.waiting == 0, "the interval of one that is served goes on"
    reporter.end_intervals()
    assert reporter.buffer.waiting == 1


def test_a_bundle_that_nothing_serves_is_forgotten_at_once_and_not_with_its_interval(tmp_path: Path) -> None:
    reporter, served = reporter_of(interval_s=3600.0), load(tmp_path)
    watch = weakref.ref(reporter.watch(served))
    thread = threading.Thread(target=reporter.run)
    thread.start()
    try:
        del served
        ends_s = time.monotonic() + 60  # it only ends a test that would fail anyway
        while watch() is not None:
            assert time.monotonic() < ends_s, "it is still there"
            time.sleep(0.01)
    finally:
        reporter.stop()
        thread.join(60)
    assert not thread.is_alive()


def test_a_bundle_whose_answers_wait_to_be_looked_at_is_not_forgotten(tmp_path: Path) -> None:
    observers, served = Observers(), load(tmp_path)
    reporter = reporter_of(mark=observers.mark)
    watch = reporter.watch(served)
    left = weakref.ref(watch)
    serving = Serving(served, watch, Health(served, SystemClock()))
    inputs = {"image": frames(2)}
    answer = served.infer(inputs)
    watch.answered(answer)
    assert observers.offer(Observation.of(serving, inputs, answer, ""))
    reporter.end_intervals()
    assert reporter.buffer.waiting == 1, "the interval"
    del served, serving, watch
    for _ in range(3):
        reporter.end_replaced()
    assert left() is not None
    observers.stop()
    observers.run()
    reporter.end_replaced()
    assert left() is None
    assert reporter.buffer.waiting == 2, "and the report of drift"


@pytest.mark.parametrize("make", [make_bundle, make_twin, make_line])
def test_nothing_of_a_model_of_any_task_waits_for_a_collection_of_garbage(
    tmp_path: Path, make: Callable[[Path], MadeBundle]
) -> None:
    made, reporter = make(tmp_path), reporter_of()
    models = Models(1, reporter.watch)
    name = made.manifest.model
    gc.collect()
    gc.disable()
    try:
        left = weakref.ref(models.activate(name, made.path, made.digest, made.manifest.release).model)
        models.deactivate(name)
        assert left() is None
    finally:
        gc.enable()


def test_a_watch_that_has_still_to_report_keeps_no_interpreter(tmp_path: Path) -> None:
    served, reporter = load(tmp_path), reporter_of()
    interpreter = weakref.ref(served.loaded)
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
    served = load(tmp_path)
    reporter = reporter_of(partial(make_watch, settings=SampleSettings(random_rate=1.0)))
    watch = reporter.watch(served)
    left = weakref.ref(watch)
    inputs = {"image": frames(8)}
    watch.observe([Exchange(inputs, served.infer(inputs), "")])
    del served, watch
    reporter.end_replaced()
    assert left() is None
    batch = reporter.buffer.batch()
    assert batch is not None
    assert Kind.SAMPLES.value in batch.header("a")["kinds"]


def test_a_request_that_outlives_its_bundle_for_long_is_counted(tmp_path: Path) -> None:
    """Many frames on a slow device take several intervals."""
    served, reporter = load(tmp_path), reporter_of()
    under_way = Serving(served, reporter.watch(served), Health(served, SystemClock()))
    left = weakref.ref(under_way.watch)
    del served
    for _ in range(4):
        reporter.end_intervals()
    under_way.watch.failed()
    reporter.end_intervals()
    assert reporter.buffer.waiting == 1
    del under_way
    reporter.end_replaced()
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
