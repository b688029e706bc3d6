"""The way of a request: its model, the answer, who is told."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from runtime_bundles import frames, make_bundle
from runtime_watches import Witness
from typing_extensions import override

from dsops.errors import InvalidInput, NotFound, QueueFull
from dsops.forms import Form
from dsops_agent.runtime.admission import Caller
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.duels import Duels
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.observe import Observation, Observers
from dsops_agent.runtime.sent import Sent, SentInputs
from dsops_agent.runtime.swap import Models


def dispatcher(folder: Path, witness: Witness, observers: Observers | None = None) -> Dispatcher:
    bundle = make_bundle(folder)
    models = Models(1, lambda _: witness)
    models.activate(bundle.manifest.model, bundle.path, bundle.digest, bundle.manifest.release)
    return Dispatcher(models, observers or Observers())


def two_frames(served: ServedModel) -> SentInputs:
    return {"image": Sent(Form.REAL, frames(2))}


def test_an_answer_says_which_bundle_gave_it(tmp_path: Path) -> None:
    witness = Witness()
    found = dispatcher(tmp_path, witness).infer("compass", "", "r-1", two_frames)
    assert found.served.name == "compass"
    assert found.answer.scores.shape[0] == 2
    assert witness.answers == 1


def test_a_release_that_is_named_must_be_the_active_one(tmp_path: Path) -> None:
    where = dispatcher(tmp_path, Witness())
    assert where.infer("compass", "1", "", two_frames).served.release == 1
    with pytest.raises(NotFound, match="release 2 of model compass is not active"):
        where.infer("compass", "2", "", two_frames)
    with pytest.raises(NotFound, match=r"no model .sextant. is active"):
        where.find("sextant")


def test_what_cannot_be_decoded_is_no_failure_of_the_model(tmp_path: Path) -> None:
    def refused(served: ServedModel) -> SentInputs:
        raise InvalidInput("these are no frames")

    witness = Witness()
    with pytest.raises(InvalidInput):
        dispatcher(tmp_path, witness).infer("compass", "", "", refused)
    assert (witness.answers, witness.failures) == (0, 0)


class Uncountable(Witness):
    """A watch that cannot even count."""

    @override
    def answered(self, answer: Answer) -> None:
        raise RuntimeError("this watch is broken")


def test_a_broken_watch_costs_no_answer(tmp_path: Path) -> None:
    found = dispatcher(tmp_path, Uncountable()).infer("compass", "", "", two_frames)
    assert len(found.answer.choices) == 2


def test_the_answer_is_offered_to_whoever_observes(tmp_path: Path) -> None:
    witness, observers, heard = Witness(), Observers(), []
    observers.listen(heard.append)
    found = dispatcher(tmp_path, witness, observers).infer("compass", "", "r-1", two_frames)
    assert (witness.answers, witness.seen) == (1, [])
    observers.stop()
    observers.run()
    (observation,) = heard
    assert isinstance(observation, Observation)
    assert (observation.answer, observation.request_id) == (found.answer, "r-1")
    assert witness.requests == ["r-1"]


def test_who_is_held_back_waits_within_the_bounds_of_the_queue(tmp_path: Path) -> None:
    bundle, waits, goes_on = make_bundle(tmp_path), threading.Semaphore(0), threading.Event()
    models = Models(1, lambda _: Witness())
    models.activate("compass", bundle.path, bundle.digest, 1)

    def hold(_: Callable[[], None]) -> None:
        waits.release()
        assert goes_on.wait(20)

    where = Dispatcher(models, Observers(), queue=1, hold=hold)
    with ThreadPoolExecutor(3) as callers:
        held = [callers.submit(where.infer, "compass", "", "", two_frames) for _ in range(2)]
        assert all(waits.acquire(timeout=20) for _ in held)
        more = callers.submit(where.infer, "compass", "", "", two_frames)
        found = more.exception(5) if not waits.acquire(timeout=0.5) else None
        goes_on.set()
        assert isinstance(found, QueueFull)
        assert [one.result(20).served.name for one in held] == ["compass"] * 2


class Beginning(Duels):
    """A challenger that comes while a request is read."""

    def __init__(self) -> None:
        self.is_there = False
        self.events: list[str] = []

    @override
    def has(self, model: str) -> bool:
        return self.is_there

    @override
    def draws(self, model: str) -> bool:
        return False

    @override
    def answer(self, *_: Any) -> None:
        self.events.append("asked")

    def slowly(self) -> None:
        self.events.append("slowly")


def test_a_challenger_is_waited_for_only_after_others_need_not_wait(tmp_path: Path) -> None:
    bundle, duels = make_bundle(tmp_path), Beginning()
    models = Models(1, lambda _: Witness())
    models.activate("compass", bundle.path, bundle.digest, 1)
    where = Dispatcher(models, Observers(), duels=duels)
    models.get("compass").model.pace.took([1.0])

    def one_frame(_: ServedModel) -> SentInputs:
        duels.is_there = True
        return {"image": Sent(Form.REAL, frames(1))}

    caller = Caller(slowly=duels.slowly)
    where.infer("compass", "", "r-1", one_frame, caller=caller)
    assert duels.events == []  # it came after the request
    where.infer("compass", "", "r-2", one_frame, caller=caller)
    assert duels.events == ["slowly", "asked"]
