"""Several interpreters of one model: when there are more than one, who runs on which, and what becomes of them."""

import gc
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import frames, make_bundle, tflite
from runtime_watches import Witness
from slow_models import Slow, replace_loaded

from dsops.bundle import Bundle
from dsops.forms import Form
from dsops_agent.hangs import HangWatch
from dsops_agent.runtime.batches import BATCH_FRAMES, TRIED_FRAMES, State
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.flight import FlightRecorder, Unmarked, read_flight
from dsops_agent.runtime.growth import Growth
from dsops_agent.runtime.instances import PRESSURE, Held, Instance, Instances, most_instances
from dsops_agent.runtime.interpreter import Interpreter
from dsops_agent.runtime.litert import LoadedModel
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.sent import Sent
from dsops_agent.runtime.swap import Models

PLENTY = 1 << 40


class Stage:
    """A model whose runs do something first, once the test says so."""

    def __init__(self, folder: Path, most: int = 2, free_bytes: int = PLENTY) -> None:
        self.folder, self.before = folder, lambda: None
        self.growth = Growth(most, lambda: free_bytes)
        self.models = Models(1, self._watch, flights=FlightRecorder(folder), growth=self.growth)
        self.bundle = make_bundle(folder)
        self.served = self.activate(1)
        self.observers = Observers()
        self.dispatcher = Dispatcher(self.models, self.observers)

    def activate(self, release: int) -> ServedModel:
        made = self.bundle if release == 1 else make_bundle(self.folder, release=release, gain=2.0 + release / 50)
        return self.models.activate("compass", made.path, made.digest, release).model

    def ask(self, count: int = 1) -> tuple[str, bytes]:
        found = self.dispatcher.infer("compass", "", "", lambda _: {"image": Sent(Form.REAL, frames(count))})
        return found.served.digest, found.answer.outputs[0].tobytes()

    def run_before(self) -> None:
        self.before()

    def _watch(self, served: ServedModel) -> Witness:
        replace_loaded(served, Slow(served.loaded, self.run_before))  # before anybody asks it
        return Witness()

    @contextmanager
    def growing(self) -> Iterator[None]:
        threads = [threading.Thread(target=body) for body in (self.growth.run, self.observers.run)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.growth.stop()
            self.observers.stop()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the limit only ends a test that would fail anyway."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("wanted", "cpus", "threads", "cpu_percent", "most"),
    [
        (0, 1, 1, 0.0, 1),
        (0, 2, 1, 0.0, 2),
        (0, 4, 2, 0.0, 2),
        (0, 2, 4, 0.0, 1),
        (0, 64, 1, 0.0, 4),  # each takes memory
        (0, 4, 1, 50.0, 1),  # half a core is one interpreter's
        (0, 4, 1, 150.0, 2),
        (0, 2, 1, 6400.0, 2),
        (3, 1, 4, 50.0, 3),  # what is configured
    ],
)
def test_each_instance_has_processors_of_its_own(
    wanted: int, cpus: int, threads: int, cpu_percent: float, most: int
) -> None:
    assert most_instances(wanted, cpus, threads, cpu_percent) == most


def test_two_callers_of_one_model_are_answered_at_the_same_time(tmp_path: Path) -> None:
    stage, both = Stage(tmp_path), threading.Barrier(2)
    stage.growth.grow(stage.served)
    assert stage.served.instances.count == 2
    alone = stage.ask()
    stage.before = lambda: both.wait(30) and None  # comes back only while the other one runs too
    with ThreadPoolExecutor(2) as callers:
        assert [one.result(60) for one in [callers.submit(stage.ask) for _ in range(2)]] == [alone, alone]


def test_with_one_instance_they_are_not(tmp_path: Path) -> None:
    stage, both = Stage(tmp_path, most=1), threading.Barrier(2)

    def before() -> None:
        with pytest.raises(threading.BrokenBarrierError):
            both.wait(0.2)

    stage.before = before
    with ThreadPoolExecutor(2) as callers:
        for one in [callers.submit(stage.ask) for _ in range(2)]:
            one.result(60)


def test_another_instance_is_made_when_callers_wait_often_and_the_last_used_one_is_used_first(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.before = lambda: time.sleep(0.005)
    with stage.growing(), ThreadPoolExecutor(3) as callers:
        for _ in range(2 * PRESSURE):
            stage.ask()
        assert stage.served.instances.count == 1, "a single program never waits for itself"
        while stage.served.instances.count == 1:
            for one in [callers.submit(stage.ask) for _ in range(3)]:
                one.result(60)
        for one in [callers.submit(stage.ask) for _ in range(8 * PRESSURE)]:
            one.result(60)
    assert stage.served.instances.count == 2, "there are no more than that"
    first = stage.served.instances.take()
    assert first is not None
    stage.served.instances.give_back(first)
    assert stage.served.instances.take() is first


def test_callers_who_seldom_meet_make_no_other_one() -> None:
    instances = Instances(Instance(LoadedModel(tflite()), Unmarked()), 2)
    for _ in range(4 * PRESSURE):
        assert not instances.is_short()
        held = instances.take()  # and one who need not wait
        assert held
        instances.give_back(held)
    assert [instances.is_short() for _ in range(2 * PRESSURE)].count(True) == 1


def test_without_memory_there_is_no_other_one_until_there_is(tmp_path: Path) -> None:
    stage = Stage(tmp_path, free_bytes=32 << 20)
    assert sum(stage.served.instances.is_short() for _ in range(PRESSURE)) == 1
    stage.growth.grow(stage.served)
    assert stage.served.instances.count == 1
    assert sum(stage.served.instances.is_short() for _ in range(PRESSURE)) == 1, "it is asked for again"


def test_an_instance_that_answers_a_golden_input_otherwise_never_serves(tmp_path: Path) -> None:
    stage, wrong = Stage(tmp_path), LoadedModel(tflite(gain=-4.0))

    class Forger(Slow):
        def batched(self, frames: int) -> Interpreter:
            return wrong

    replace_loaded(stage.served, Forger(stage.served.loaded, lambda: None))
    assert sum(stage.served.instances.is_short() for _ in range(PRESSURE)) == 1
    stage.growth.grow(stage.served)
    assert stage.served.instances.count == 1
    assert not any(stage.served.instances.is_short() for _ in range(PRESSURE)), "it is not tried again"
    assert not read_flight(tmp_path)


def test_each_instance_has_a_mark_of_its_own_so_that_the_frame_that_hangs_is_told_from_the_others(
    tmp_path: Path,
) -> None:
    stage, hangs, go = Stage(tmp_path), threading.Event(), threading.Event()
    stage.growth.grow(stage.served)

    def before() -> None:
        if not hangs.is_set():
            hangs.set()
            assert go.wait(60)

    stage.before = before
    with ThreadPoolExecutor(1) as callers:
        hung = callers.submit(stage.ask)
        assert hangs.wait(60)
        watch, stuck = HangWatch(0.05, time.monotonic()), ()
        while not stuck:
            stage.ask()  # another one is answered meanwhile
            stuck = watch.look(read_flight(tmp_path), time.monotonic())
        with Held(stage.served.instances) as other:
            running = other.marks.run(lambda: read_flight(tmp_path))
            assert Counter(one.digest for one in running) == {stage.bundle.digest: 2}
            (own,) = set(running) - set(stuck)
            assert own.slot != stuck[0].slot
        go.set()
        hung.result(60)
    assert [one.digest for one in stuck] == [stage.bundle.digest]
    assert not read_flight(tmp_path)


def test_a_swap_loses_no_request_of_any_instance_and_gives_the_memory_of_all_back(tmp_path: Path) -> None:
    stage, over = Stage(tmp_path), threading.Event()
    stage.before = lambda: time.sleep(0.001)
    told: list[tuple[str, bytes]] = []
    left: list[weakref.ref[Interpreter]] = []

    def go_on() -> None:
        while not over.is_set():
            told.append(stage.ask())

    with stage.growing(), ThreadPoolExecutor(4) as callers:
        asking = [callers.submit(go_on) for _ in range(4)]
        try:
            for release in range(2, 6):
                served = stage.served
                stage.growth.ask(served)  # whether callers meet often enough is up to the machine
                eventually(lambda: stage.served.instances.count >= 2)
                with Held(served.instances) as one, Held(served.instances) as other:
                    left += [weakref.ref(one.interpreter), weakref.ref(other.interpreter)]
                    del one, other
                    stage.served = stage.activate(release)
                del served
            eventually(lambda: told[-1][0] == stage.served.digest)
        finally:
            over.set()
        for future in asking:
            future.result(60)
    gc.collect()
    assert len({digest for digest, _ in told}) == 5
    assert len(set(told)) == 5, "an answer of a mix"
    assert [interpreter() for interpreter in left] == [None] * 8


def test_batches_that_run_at_once_have_an_interpreter_each_and_answer_the_same(tmp_path: Path) -> None:
    stage, both = Stage(tmp_path), threading.Barrier(2)
    replace_loaded(stage.served, Slow(stage.served.loaded, stage.run_before), most_time=1e9)
    stage.growth.grow(stage.served)
    singly = stage.ask(TRIED_FRAMES)
    assert stage.served.batches.state is State.TRUSTED
    stage.before = lambda: both.wait(30) and None
    with ThreadPoolExecutor(2) as callers:
        told = [one.result(60) for one in [callers.submit(stage.ask, TRIED_FRAMES) for _ in range(2)]]
    assert told == [singly, singly]
    slow = stage.served.loaded
    assert isinstance(slow, Slow)
    assert Counter(slow.runs)[BATCH_FRAMES] == 3 * TRIED_FRAMES // BATCH_FRAMES, "the trial, and two requests"


def test_no_instance_is_held_twice_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    interpreter = LoadedModel(tflite())
    instances = Instances(Instance(interpreter, Unmarked()), 3)
    for _ in range(2):
        instances.add(Instance(interpreter, Unmarked()))
    held: set[int] = set()
    most, lock = 0, threading.Lock()

    def ask(number: int) -> int:
        nonlocal most
        done = 0
        while done < 300:
            found = instances.take() or instances.wait(0.0005 if number % 2 else 30.0)
            if found is None:
                continue
            with lock:
                assert id(found) not in held
                held.add(id(found))
                most = max(most, len(held))
            time.sleep(0.0001 * (done % 3))
            with lock:
                held.remove(id(found))
            instances.give_back(found)
            done += 1
        return done

    with ThreadPoolExecutor(8) as callers:
        assert [one.result(120) for one in [callers.submit(ask, number) for number in range(8)]] == [300] * 8
    assert most == 3
    assert len({id(instances.take()) for _ in range(3)}) == 3
    assert instances.take() is None


def test_who_waits_is_woken_by_what_is_given_back_and_not_by_the_clock() -> None:
    instances = Instances(Instance(LoadedModel(tflite()), Unmarked()))
    held = instances.take()
    assert held
    assert instances.wait(0.01) is None
    with ThreadPoolExecutor(1) as callers:
        waiting = callers.submit(instances.wait, 1e6)
        eventually(lambda: len(instances._waiting) == 1)
        instances.give_back(held)
        assert waiting.result(60) is held


def test_a_model_that_is_asked_by_itself_holds_its_instance_to_the_end(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(made.path), made.digest, 1)
    assert Held(served.instances).share_ns == math.inf
    assert np.array_equal(
        served.infer({"image": frames(3)}).outputs[0], served.infer({"image": frames(3)}, alone=True).outputs[0]
    )
    assert served.instances.take() is not None
