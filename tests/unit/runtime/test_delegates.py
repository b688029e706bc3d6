"""Delegates: a real one, compiled here, that takes over a custom operator, refuses, balks or crashes."""

import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from runtime_breakers import make_breaker
from runtime_bundles import frames, make_bundle
from twice import OPERATOR, compile_delegate, delegate, make_twice, needs_compiler, twice_model

from dsops.bundle import Bundle
from dsops.errors import DelegateMissing, GoldenMismatch, InvalidModel, RuntimeCrashed
from dsops.manifest import Budgets
from dsops_agent.install.ports import ProveLimits
from dsops_agent.install.steps import CONDEMNING
from dsops_agent.operators import Accelerated
from dsops_agent.proof import Prover
from dsops_agent.runtime.accelerator import Accelerator
from dsops_agent.runtime.delegate import why_unusable
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.flight import LEAST_HANG_S, FlightRecorder, read_flight
from dsops_agent.runtime.growth import Growth
from dsops_agent.runtime.instances import PRESSURE
from dsops_agent.runtime.litert import LoadedModel
from dsops_agent.runtime.swap import Models, Totals

pytestmark = needs_compiler
LIMITS = ProveLimits(timeout_s=120.0, memory_bytes=0)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_delegate(tmp_path_factory.mktemp("delegate"))


class Unwatched:
    totals = Totals()

    def answered(self, *_: object) -> None:
        pass

    def failed(self) -> None:
        pass


def test_a_delegate_runs_the_operator_that_the_runtime_does_not_have(library: str) -> None:
    loaded = LoadedModel(twice_model(custom=True), delegate=(library, {}))
    assert loaded.run([np.arange(4, dtype=np.float32)[None]])[0].tolist() == [[0, 2, 4, 6]]
    assert (loaded.runtime.delegate, loaded.runtime.fallback) == (library, "")
    assert str(loaded.runtime).endswith(f"with {library}")


def test_what_a_delegate_runs_has_one_instance_however_often_callers_wait(library: str, tmp_path: Path) -> None:
    growth, shorts = Growth(4, lambda: 1 << 40), []
    for bundle, used in ((make_twice(tmp_path), delegate(library, "")), (make_bundle(tmp_path), None)):
        models = Models(1, lambda _: Unwatched(), Accelerator(used), growth=growth)
        served = models.activate(bundle.manifest.model, bundle.path, bundle.digest, 1).model
        shorts.append(sum(served.instances.is_short() for _ in range(PRESSURE)))
    assert shorts == [0, 1]


def test_a_delegate_that_answers_wrongly_takes_nobodys_place(library: str, tmp_path: Path) -> None:
    bundle = make_twice(tmp_path)
    for mood in ("", "wrong"):
        models = Models(1, lambda _: Unwatched(), Accelerator(delegate(library, mood)))
        if not mood:
            assert models.activate("twice", bundle.path, bundle.digest, 1).model.loaded.runtime.delegate == library
            continue
        with pytest.raises(GoldenMismatch, match="golden inputs are not answered as expected"):
            models.activate("twice", bundle.path, bundle.digest, 1)
        assert models.names() == []


def test_without_its_delegate_such_a_model_is_refused() -> None:
    with pytest.raises(InvalidModel, match="custom"):
        LoadedModel(twice_model(custom=True))


def test_custom_operators_are_admitted_only_when_the_delegate_claims_them(library: str, tmp_path: Path) -> None:
    bundle = make_twice(tmp_path)
    opened = Bundle.open(bundle.path)
    served = load_bundle(opened, bundle.digest, 1, delegate=delegate(library))
    assert served.infer({"x": np.ones((2, 4), np.float32)}).outputs[0].tolist() == [[2.0] * 4] * 2
    for other in (None, delegate(library, operators=("another",))):
        with pytest.raises(InvalidModel, match="custom operators are not admitted"):
            load_bundle(opened, bundle.digest, 1, delegate=other)


@pytest.mark.parametrize("mood", ["refuse", "balk"])
def test_a_delegate_that_refuses_leaves_the_work_to_the_processor(library: str, mood: str) -> None:
    loaded = LoadedModel(twice_model(custom=False), delegate=(library, {"mood": mood}))
    assert loaded.run([np.ones((1, 4), np.float32)])[0].tolist() == [[2.0] * 4]
    assert loaded.runtime.delegate == ""
    assert loaded.runtime.fallback


def test_a_delegate_is_tried_in_a_process_of_its_own(library: str, tmp_path: Path) -> None:
    assert why_unusable(delegate(library)) == ""
    assert "there is no such accelerator" in why_unusable(delegate(library, "refuse"))
    assert "crashed by signal 11" in why_unusable(delegate(library, "crash"))
    assert "cannot be used" in why_unusable(delegate(str(tmp_path / "absent.so")))
    libc = "libc.so.6"  # a library, and no delegate
    assert "cannot be used" in why_unusable(delegate(libc))


@pytest.mark.parametrize(("mood", "problem"), [("", ""), ("refuse", "no such accelerator"), ("crash", "signal 11")])
def test_models_are_served_whatever_the_delegate_does(library: str, tmp_path: Path, mood: str, problem: str) -> None:
    told: list[tuple[str, str]] = []
    accelerator = Accelerator(delegate(library, mood), lambda name, why: told.append((name, why)))
    models = Models(1, lambda _: Unwatched(), accelerator)
    bundle = make_bundle(tmp_path)
    served = models.activate("compass", bundle.path, bundle.digest, 1).model
    assert served.infer({"image": frames(4)}).choices.tolist() == [0, 1, 2, 3]
    assert served.loaded.runtime.delegate == ("" if problem else library)
    status = Accelerated.of(accelerator.status())
    assert problem in status.problem
    assert status.usable == (() if problem else ("twice",))
    assert [name for name, _ in told] == (["twice"] if problem else [])
    assert status.brings(f"custom:{OPERATOR}/1") is not bool(problem)
    assert not status.brings("custom:another/1")


def test_a_delegate_that_balks_at_a_model_is_reported_and_tried_again_with_the_next(
    library: str, tmp_path: Path
) -> None:
    told: list[str] = []
    accelerator = Accelerator(delegate(library, "balk"), lambda _, why: told.append(why))
    models = Models(1, lambda _: Unwatched(), accelerator)
    bundle = make_bundle(tmp_path)
    models.activate("compass", bundle.path, bundle.digest, 1)
    assert len(told) == 1
    assert accelerator.usable() is not None


def test_a_bundle_is_proved_with_the_delegate(library: str, tmp_path: Path) -> None:
    bundle = make_twice(tmp_path)
    assert Prover(1, delegate(library).model_dump_json()).prove(bundle.path, LIMITS).unproven == ""
    with pytest.raises(InvalidModel, match="custom operators are not admitted"):
        Prover(1, delegate(library, operators=()).model_dump_json()).prove(bundle.path, LIMITS)


def test_a_bundle_is_not_at_fault_when_the_device_cannot_use_its_delegate(library: str, tmp_path: Path) -> None:
    bundle = make_twice(tmp_path)
    prover = Prover(1, delegate(library, "crash").model_dump_json())
    with pytest.raises(DelegateMissing, match=r"does not run custom:dsops-twice/1: .*; it crashed"):
        prover.prove(bundle.path, LIMITS, delegate_problem="it crashed")
    assert not issubclass(DelegateMissing, CONDEMNING)


def test_what_a_delegate_prints_is_neither_an_answer_nor_a_fault(library: str, tmp_path: Path) -> None:
    bundle, chatty = make_twice(tmp_path), delegate(library, "chat")
    assert why_unusable(chatty) == ""
    assert Prover(1, chatty.model_dump_json()).prove(bundle.path, LIMITS).unproven == ""


def test_a_bundle_that_crashes_the_process_is_at_fault(library: str, tmp_path: Path) -> None:
    bundle = make_twice(tmp_path)
    with pytest.raises(RuntimeCrashed, match="signal 11"):
        Prover(1, delegate(library, "fault").model_dump_json()).prove(bundle.path, LIMITS)


def test_no_delegate_is_no_problem() -> None:
    accelerator = Accelerator(None)
    assert (accelerator.usable(), accelerator.status()) == (None, {})
    assert Accelerated.of({}).usable == Accelerated.of(None).usable == ()


@pytest.mark.parametrize("mood", ["", "refuse"])
def test_how_long_a_frame_may_take_follows_from_what_runs_it(library: str, tmp_path: Path, mood: str) -> None:
    made = make_breaker(tmp_path, "sound", 1, budgets=Budgets(max_latency_ms=5.0))
    models = Models(1, lambda _: Unwatched(), Accelerator(delegate(library, mood)), FlightRecorder(tmp_path))
    instance = models.activate("counter", made.path, made.digest, 1).model.instances.take()
    assert instance
    marks = instance.marks
    limits_s = []
    for took_s in (0.2, 0.0):
        (running,) = marks.run(lambda: read_flight(tmp_path))
        limits_s.append(running.most_s)
        marks.run(partial(time.sleep, took_s))
    assert LEAST_HANG_S <= limits_s[0] < limits_s[1] < math.inf
