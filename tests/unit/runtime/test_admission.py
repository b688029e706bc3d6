"""Places, turns, deadlines and callers that go away."""

import threading
import time

import pytest
from runtime_bundles import tflite

from dsops.errors import Abandoned, QueueFull, TimedOut
from dsops_agent.runtime.admission import PATIENT, Admission, Caller
from dsops_agent.runtime.flight import Unmarked
from dsops_agent.runtime.instances import Instance, Instances
from dsops_agent.runtime.litert import LoadedModel


def one_model() -> int:
    return 1


def one_instance() -> Instances:
    return Instances(Instance(LoadedModel(tflite()), Unmarked()))


def test_who_finds_no_place_is_told_at_once_and_counted() -> None:
    admission = Admission(1, 56, one_model)
    with admission.place("a"), admission.place("a"):
        with pytest.raises(QueueFull, match="model a has too many requests: 2 are under way"), admission.place("a"):
            pass
        with admission.place("b"):  # has places of its own
            pass
    assert admission.shed == 1
    with admission.place("a"):
        pass


def test_many_models_share_what_there_is() -> None:
    admission = Admission(16, 8, lambda: 4)
    with admission.place("a"), admission.place("a"), pytest.raises(QueueFull), admission.place("a"):
        pass
    crowd = Admission(16, 8, lambda: 100)
    with crowd.place("a"), pytest.raises(QueueFull), crowd.place("a"):
        pass


def test_a_request_whose_deadline_passes_while_it_waits_is_not_run() -> None:
    admission, only = Admission(4, 56, one_model), one_instance()
    with (
        admission.place("a") as first,
        first.turn(PATIENT, only),
        admission.place("a") as second,
        pytest.raises(TimedOut),
        second.turn(Caller(time.monotonic() + 0.05), only),
    ):
        pytest.fail("it ran")
    with admission.place("a") as late, pytest.raises(TimedOut), late.turn(Caller(time.monotonic() - 1), only):
        pytest.fail("it ran")
    with admission.place("a") as free, free.turn(PATIENT, only):  # nothing is left taken
        pass


def test_a_caller_who_went_away_while_waiting_is_not_answered() -> None:
    admission, only = Admission(4, 56, one_model), one_instance()
    gone = threading.Event()
    with admission.place("a") as first, first.turn(PATIENT, only), admission.place("a") as second:
        threading.Timer(0.05, gone.set).start()
        with pytest.raises(Abandoned), second.turn(Caller(is_gone=gone.is_set), only):
            pytest.fail("it ran")


def test_turns_at_one_model_do_not_overlap_and_all_come() -> None:
    admission, only = Admission(16, 56, one_model), one_instance()
    inside, most, done = 0, 0, []

    def ask() -> None:
        nonlocal inside, most
        with admission.place("a") as place, place.turn(PATIENT, only):
            inside += 1
            most = max(most, inside)
            time.sleep(0.002)
            inside -= 1
            done.append(1)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(done)) == (1, 16)
