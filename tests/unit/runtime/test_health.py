"""What is counted of a served bundle on the way of its requests, and who was in flight when the process died."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from runtime_bundles import CLASSES, MadeBundle, ModelBuilder, Wanted, frames, make_bundle, pack
from runtime_tasks import FLOAT, features, levels, make_line, make_twin
from test_dispatch import Witness

from dsops.bundle import Bundle
from dsops.clock import ManualClock
from dsops.errors import InvalidInput, NotFinite
from dsops.forms import Form
from dsops.manifest import Budgets, Task
from dsops_agent.runtime.batches import TRIED_FRAMES, State
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.figures import Figures
from dsops_agent.runtime.flight import FlightRecorder, Made, forget_flight, hang_limit_s, read_crashed, read_flight
from dsops_agent.runtime.health import SPAN_S
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.sent import Sent
from dsops_agent.runtime.swap import Models

DIES = """
import ctypes, os, signal, sys, threading, time
import numpy  # as in every data process: a stack ends with the modules that are not Python's own
from pathlib import Path
from dsops_agent.runtime.flight import FlightRecorder, fault_file
folder = Path(sys.argv[1])
flights = FlightRecorder(folder)
guilty, innocent, idle = flights.open("bad", "b" * 64), flights.open("good", "a" * 64), flights.open("idle", "c" * 64)
def crash():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), getattr(signal, sys.argv[2]))
with fault_file(folder):
    threading.Thread(target=innocent.run, args=(lambda: time.sleep(60),), daemon=True).start()
    if "own" in sys.argv:  # no thread of Python's: there is no way to leave it either
        libc = ctypes.CDLL(None)
        time.sleep(0.2)
        libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, ctypes.cast(libc.abort, ctypes.c_void_p), None)
    else:
        threading.Thread(target=crash if "apart" in sys.argv else lambda: guilty.run(crash)).start()
    idle.run(lambda: None)
    time.sleep(60)
"""


class Service:
    """A bundle that is served, and its figures."""

    def __init__(self, bundle: MadeBundle) -> None:
        self.clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
        self.models = Models(1, lambda _: Witness(), clock=self.clock)
        self.name = bundle.manifest.model
        self.models.activate(self.name, bundle.path, bundle.digest, bundle.manifest.release)
        self.dispatcher = Dispatcher(self.models, Observers())

    def ask(self, **inputs: np.ndarray) -> None:
        sent = {name: Sent(Form.REAL, values) for name, values in inputs.items()}
        self.dispatcher.infer(self.name, "", "", lambda _: sent)

    @property
    def figures(self) -> Figures:
        told = self.models.get(self.name).health.figures()
        assert Figures.parse(told.model_dump(mode="json")) == told
        return told


def most_s_of(folder: Path) -> float:
    (running,) = read_flight(folder)
    assert (running.model, running.digest) == ("compass", "d" * 64)
    return running.most_s


def test_a_frame_hangs_by_its_budget_and_by_the_longest_one_that_came_back(tmp_path: Path) -> None:
    assert [hang_limit_s(ms) for ms in (0.0, 4.0, 25.0, 100.0)] == [5.0, 5.0, 5.0, 20.0]
    marks = FlightRecorder(tmp_path).open("compass", "d" * 64, 30.0)
    assert marks.run(lambda: most_s_of(tmp_path)) == math.inf, "nothing is known of it yet"
    assert marks.run(lambda: most_s_of(tmp_path)) == 6.0, "that is 200 times its budget"
    marks.run(lambda: time.sleep(0.2))
    for _ in range(2):
        most_s = marks.run(lambda: most_s_of(tmp_path))
        assert 10.0 <= most_s < math.inf, "50 times as long as one that came back"


def test_a_frame_never_hangs_where_the_processor_is_had_last(tmp_path: Path) -> None:
    marks = FlightRecorder(tmp_path, is_patient=True).open("compass", "d" * 64, 4.0)
    for _ in range(2):
        assert marks.run(lambda: most_s_of(tmp_path)) == math.inf


def test_requests_frames_times_and_choices_are_counted(tmp_path: Path) -> None:
    service = Service(make_bundle(tmp_path, budgets=Budgets(max_latency_ms=7.0)))
    for _ in range(3):
        service.ask(image=frames(CLASSES, noise=0.02))
    found = service.figures
    assert (found.requests, found.failures, found.frames, found.bins) == (3, 0, 12, (3, 3, 3, 3))
    assert sum(found.latency.values()) == 12
    assert 0 < found.latency_us(0.5) <= found.latency_us(0.95)
    assert (found.signal, found.budget_ms, len(found.reference)) == ("predicted_class", 7.0, CLASSES)


def test_frames_that_batches_are_tried_with_are_no_measure_of_time(tmp_path: Path) -> None:
    service = Service(make_bundle(tmp_path))
    for _ in range(TRIED_FRAMES // 8):
        service.ask(image=frames(8))
    assert service.models.get(service.name).model.batches.state is not State.UNTRIED
    assert (service.figures.requests, service.figures.frames) == (TRIED_FRAMES // 8, 0)
    service.ask(image=frames(8))
    service.ask(image=frames(1))
    assert (service.figures.frames, sum(service.figures.latency.values())) == (9, 9)


def test_frames_that_never_tell_whether_batches_are_right_are_timed_in_the_end(tmp_path: Path) -> None:
    service, same = Service(make_bundle(tmp_path)), np.repeat(frames(1), 8, axis=0)
    for _ in range(2 * TRIED_FRAMES // 8 + 3):
        service.ask(image=same)
    assert service.models.get(service.name).model.batches.state is State.UNTRIED
    assert service.figures.frames == 24


def test_a_request_that_is_no_good_is_not_counted(tmp_path: Path) -> None:
    service = Service(make_bundle(tmp_path))
    with pytest.raises(InvalidInput):
        service.ask(image=np.full((1, 4, 4, 1), np.nan, np.float32))
    assert service.figures.requests == 0


@pytest.mark.parametrize("task", ["line", "twin"])
def test_models_that_do_not_choose_are_counted_by_the_bins_of_their_profile(tmp_path: Path, task: str) -> None:
    bundle = make_line(tmp_path) if task == "line" else make_twin(tmp_path)
    service = Service(bundle)
    service.ask(x=features(300, 2) if task == "line" else levels(300, 3))
    found = service.figures
    assert found.bins == found.reference, "the very data that the profile was made of"


def test_an_answer_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    build = ModelBuilder()
    x, y = build.tensor("x", (1, 4), FLOAT), build.tensor("sum", (1, 4), FLOAT)
    build.operator(schema.BuiltinOperator.EXP, [x], [y], schema.ExpOptionsT())
    wanted = Wanted(model="exponential", task=Task.REGRESSION, labels=())
    service = Service(pack(tmp_path, build.finish([x], [y]), {"x": features(6, 1)}, {"x": features(300, 2)}, wanted))
    service.ask(x=np.zeros((2, 4), np.float32))
    with pytest.raises(NotFinite, match="output 'sum' holds NaN or infinity"):
        service.ask(x=np.full((1, 4), 1000.0, np.float32))
    found = service.figures
    assert (found.requests, found.failures, found.not_finite, found.frames) == (2, 1, 1, 2)


def test_an_activation_begins_anew_and_what_is_long_ago_is_forgotten(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    service = Service(bundle)
    service.ask(image=frames(4))
    service.clock.advance(SPAN_S)
    service.ask(image=frames(4))
    assert (service.figures.frames, service.figures.idle_s) == (8, 0.0)
    service.clock.advance(SPAN_S)
    assert (service.figures.frames, service.figures.idle_s) == (4, SPAN_S)
    service.clock.advance(2 * SPAN_S)
    assert service.figures.frames == 0
    service.ask(image=frames(4))
    service.models.activate("compass", bundle.path, bundle.digest, 1)
    assert service.figures.requests == 0


def test_what_runs_is_seen_from_outside_and_slots_are_given_back(tmp_path: Path) -> None:
    flights = FlightRecorder(tmp_path)
    assert read_flight(tmp_path) == ()
    for _ in range(1000):
        marks = flights.open("compass", "d" * 64)
        [running] = marks.run(lambda: read_flight(tmp_path))
        assert (running.model, running.digest) == ("compass", "d" * 64)
        assert running.for_s >= 0
        assert read_flight(tmp_path) == ()
    forget_flight(tmp_path)
    assert read_crashed(tmp_path) == ()


def test_a_mark_does_not_stay_when_a_frame_fails(tmp_path: Path) -> None:
    marks = FlightRecorder(tmp_path).open("compass", "d" * 64)
    with pytest.raises(ZeroDivisionError):
        marks.run(lambda: 1 // 0)
    assert read_flight(tmp_path) == ()


def test_the_frames_of_a_served_model_are_marked_and_no_mark_stays(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(bundle.path), bundle.digest, 1)
    seen: list[str] = []

    class Marks:
        def run(self, task: Callable[[], Made]) -> Made:
            seen.append("begin")
            made = task()
            seen.append("end")
            return made

    object.__setattr__(served, "marks", Marks)
    served.infer({"image": frames(2)})
    assert seen == ["begin", "end"] * 2


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGFPE", "SIGABRT", "SIGBUS"])
def test_of_a_crash_only_the_thread_that_crashed_is_suspected(tmp_path: Path, how: str) -> None:
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), how], check=False, timeout=60)
    assert ended.returncode < 0
    assert [one.model for one in read_crashed(tmp_path)] == ["bad"]


def test_a_crash_outside_of_any_frame_is_nobodys_though_some_run(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), "SIGSEGV", "apart"], check=False, timeout=60)
    assert ended.returncode == -signal.SIGSEGV
    assert [one.model for one in read_flight(tmp_path)] == ["good"]
    assert read_crashed(tmp_path) == ()


def test_a_crash_on_a_thread_of_an_interpreters_own_makes_everything_that_ran_suspect(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), "SIGABRT", "own"], check=False, timeout=60)
    assert ended.returncode == -signal.SIGABRT
    assert [one.model for one in read_crashed(tmp_path)] == ["good"]


WHOLE = """Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "flight.py", line 1 in run
%s
Extension modules: numpy (total: 1)
"""


@pytest.mark.parametrize(
    ("stack", "suspects"),
    [
        (WHOLE % "", []),
        (WHOLE % '  File "flight.py", line 2 in frame_of_slot_127\n', ["compass"]),
        (WHOLE % '  File "flight.py", line 2 in frame_of_slot_12\n', []),
        (WHOLE % "  ...\n", ["compass"]),
        (WHOLE % "  <invalid frame>\n", ["compass"]),
        (WHOLE[: WHOLE.index("  File")], ["compass"]),
        ("", ["compass"]),
    ],
)
def test_a_stack_that_was_cut_absolves_nobody(tmp_path: Path, stack: str, suspects: list[str]) -> None:
    flights = FlightRecorder(tmp_path)
    others = [flights.open("other", "a" * 64) for _ in range(127)]
    marks = flights.open("compass", "d" * 64)
    (tmp_path / "fault").write_text(stack)
    assert [one.model for one in marks.run(lambda: read_crashed(tmp_path))] == suspects
    del others


def test_of_a_kill_everything_that_ran_is_suspected(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", DIES, str(tmp_path), "SIGKILL"], check=False, timeout=60)
    assert ended.returncode < 0
    assert {one.model for one in read_crashed(tmp_path)} == {"bad", "good"}
