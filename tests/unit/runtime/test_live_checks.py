"""The golden inputs of a model that callers ask meanwhile."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_bundles import LABELS, frames, make_bundle
from runtime_watches import Witness
from slow_models import Slow

from dsops.bundle import Bundle
from dsops.clock import SystemClock
from dsops.errors import DigestMismatch, GoldenMismatch, NotServing, RuntimeBusy
from dsops_agent.runtime.brake import Brake
from dsops_agent.runtime.duel import Terms
from dsops_agent.runtime.duels import Duels
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.flight import Made
from dsops_agent.runtime.golden import check_golden, rest_s
from dsops_agent.runtime.handlers import ControlRequests, Process
from dsops_agent.runtime.instances import Held
from dsops_agent.runtime.swap import Models
from dsops_agent.runtime.throttle import ThrottleLimits


class Order:
    """Remembers which thread ran each frame."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def run(self, task: Callable[[], Made]) -> Made:
        self.threads.append(threading.get_ident())
        return task()


def test_callers_are_answered_between_the_golden_inputs_of_a_check(tmp_path: Path) -> None:
    made, order = make_bundle(tmp_path), Order()
    served = replace(load_bundle(Bundle.open(made.path), made.digest, 1, is_proved=True), marks=lambda: order)
    checking = threading.Thread(target=check_golden, args=(served, 0.05))
    served.infer({"image": frames(1)})
    checking.start()
    while checking.is_alive():
        served.infer({"image": frames(1)})
    mine = threading.get_ident()
    golden = [at for at, thread in enumerate(order.threads) if thread != mine]
    assert len(golden) == 8
    assert golden[-1] - golden[0] > len(golden) - 1, "no caller had a turn during the check"


def test_a_check_that_was_gentle_for_long_enough_ends_in_one_turn(tmp_path: Path) -> None:
    made, order, is_over = make_bundle(tmp_path), Order(), threading.Event()
    served = replace(load_bundle(Bundle.open(made.path), made.digest, 1, is_proved=True), marks=lambda: order)

    def ask() -> None:
        while not is_over.is_set():
            served.infer({"image": frames(1)})

    with ThreadPoolExecutor(2) as callers:
        asking = [callers.submit(ask) for _ in range(2)]
        try:
            while not order.threads:
                time.sleep(0.01)
            assert len(check_golden(served, 0.05, gentle_s=0.0)) == 8
        finally:
            is_over.set()
        for one in asking:
            one.result(20)
    mine = threading.get_ident()
    golden = [at for at, thread in enumerate(order.threads) if thread == mine]
    assert golden[-1] - golden[0] == len(golden) - 1 == 7


def test_a_check_that_was_gentle_for_long_enough_still_gives_way_after_each_turn(tmp_path: Path) -> None:
    made, order, is_over = make_bundle(tmp_path), Order(), threading.Event()
    fast = load_bundle(Bundle.open(made.path), made.digest, 1, is_proved=True)
    served = replace(fast, marks=lambda: order, loaded=Slow(fast.loaded))  # 60 ms a frame, longer than a turn

    def ask() -> None:
        while not is_over.is_set():
            served.infer({"image": frames(1)})

    with ThreadPoolExecutor(2) as callers:
        asking = [callers.submit(ask) for _ in range(2)]
        try:
            while not order.threads:
                time.sleep(0.01)
            assert len(check_golden(served, gentle_s=0.0)) == 8
        finally:
            is_over.set()
        for one in asking:
            one.result(20)
    mine = threading.get_ident()
    golden = [at for at, thread in enumerate(order.threads) if thread == mine]
    assert golden[-1] - golden[0] > len(golden) - 1, "no caller had a turn"


@pytest.mark.parametrize("gentle_s", [0.0, 60.0])
def test_a_check_that_nobody_needs_any_more_ends_after_the_frame_that_it_runs(tmp_path: Path, gentle_s: float) -> None:
    made, order = make_bundle(tmp_path), Order()
    fast = load_bundle(Bundle.open(made.path), made.digest, 1, is_proved=True)
    served = replace(fast, marks=lambda: order, loaded=Slow(fast.loaded))

    def still_wanted() -> None:
        if len(order.threads) == 2:
            raise NotServing("the runtime ends")

    with pytest.raises(NotServing):
        check_golden(served, 1.0, gentle_s, still_wanted)
    assert len(order.threads) == 2
    assert served.instances.take() is not None


def test_a_check_of_what_is_replaced_or_of_a_process_that_ends_is_given_up(tmp_path: Path) -> None:
    made, is_over, begun = make_bundle(tmp_path), threading.Event(), threading.Event()
    models = Models(1, lambda _: Witness())
    terms = Terms(lambda *_: None, 1.0, 1.0, SystemClock(), Brake(ThrottleLimits()))

    def is_ending() -> bool:
        ends = is_over.is_set()
        begun.set()
        return ends

    requests = ControlRequests(models, is_over.set, Duels(terms), Process(is_ending=is_ending))

    def checked(meanwhile: Callable[[], object]) -> BaseException | None:
        serving = models.activate("compass", made.path, made.digest, 1)
        begun.clear()
        with ThreadPoolExecutor(1) as pool:
            with Held(serving.model.instances):  # somebody's frame takes long
                check = pool.submit(requests.handle, "check", {"model": "compass"}, b"")
                assert begun.wait(60)
                meanwhile()
            return check.exception(60)

    assert checked(lambda: None) is None
    assert isinstance(checked(lambda: models.deactivate("compass")), RuntimeBusy)
    assert isinstance(checked(is_over.set), NotServing)


@pytest.mark.parametrize(
    ("took_s", "share", "left_s", "rows_left", "rest"),
    [
        (0.005, 0.1, 15.0, 31, 0.045),  # nine times as long as the frame
        (0.005, 0.5, 15.0, 31, 0.005),
        (0.005, 1.0, 15.0, 31, 0.0),  # nobody waits
        (2.0, 0.1, 12.0, 24, 0.5),  # a slow model: what is left of the time is for all rows that are left
        (2.0, 0.1, -1.0, 24, 0.0),  # it was gentle for long enough
        (0.005, 0.1, 15.0, 0, 0.0),  # the last
    ],
)
def test_a_check_takes_a_share_of_the_time_and_spreads_its_rests(
    took_s: float, share: float, left_s: float, rows_left: int, rest: float
) -> None:
    assert rest_s(took_s, share, left_s, rows_left) == pytest.approx(rest)


@pytest.mark.parametrize("gentle_s", [0.0, 60.0])
def test_what_a_check_finds_is_the_same_in_one_turn(tmp_path: Path, gentle_s: float) -> None:
    swapped = (LABELS[1], LABELS[0], *LABELS[2:])
    made = make_bundle(tmp_path, labels=swapped)
    with pytest.raises(GoldenMismatch, match="4 of 8") as caught:
        check_golden(load_bundle(Bundle.open(made.path), made.digest, 1), gentle_s=gentle_s)
    assert caught.value.why == "input 0: taken for 'east', expected 'north'"


def test_a_proved_bundle_is_loaded_only_if_every_byte_of_its_file_is_the_one_that_was_proved(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    data = bytearray(made.path.read_bytes())
    data[data.index(b"DSOPSGLD") + 200] ^= 1  # in a blob that is not read to answer
    made.path.write_bytes(data)
    with pytest.raises(DigestMismatch):
        load_bundle(Bundle.open(made.path), made.digest, 1, is_proved=True)


def test_the_golden_inputs_of_a_proved_bundle_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    made = make_bundle(tmp_path)
    served = load_bundle(Bundle.open(made.path), made.digest, 1, is_proved=True)
    assert len(check_golden(served)) == 8
    data = bytearray(made.path.read_bytes())
    start = data.index(b"DSOPSGLD")
    data[start + 200] ^= 1
    made.path.write_bytes(data)
    with pytest.raises(DigestMismatch):
        check_golden(served)
