"""A delegate that serves one process at a time, a real library with a lock: the champion has it, nobody is at fault."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runtime_bundles import LABELS, MadeBundle, make_bundle
from twice import compile_delegate, delegate, make_twice, needs_compiler

from dsops.api.v1 import telemetry_pb2
from dsops.clock import SystemClock
from dsops.errors import DelegateMissing, GoldenMismatch, TooSlow
from dsops.manifest import Budgets
from dsops_agent.install.ports import ProveLimits
from dsops_agent.install.probation import LOOK_S, GoBack, Rules, Watch, judge
from dsops_agent.moment import Moments
from dsops_agent.proof import Prover
from dsops_agent.runtime.delegate import Delegate, why_unusable
from dsops_agent.runtime_process import Launch
from dsops_agent.supervisor import RuntimeSupervisor, Told
from dsops_agent.telemetry.collect import SpoolEvents
from dsops_agent.telemetry.spool import Spool

pytestmark = [pytest.mark.integration, pytest.mark.slow, needs_compiler]

LIMITS = ProveLimits(timeout_s=120.0, memory_bytes=2 << 30)
CHALLENGER = ProveLimits(timeout_s=120.0, memory_bytes=2 << 30, is_challenger=True)
HURRY = Budgets(max_latency_ms=1e-6)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_delegate(tmp_path_factory.mktemp("delegate"))


class Device:
    """A champion's process that has the delegate, and its supervisor."""

    def __init__(self, folder: Path, wanted: Delegate) -> None:
        clock = SystemClock()
        self.spool = Spool(folder / "spool", 1 << 20)
        launch = Launch(folder / "run", json.dumps({"interval_s": 0.2, "delegate": wanted.model_dump()}))
        told = Told(lambda _is_first: None, lambda _death: None)
        prover = Prover(1, wanted.model_dump_json())
        events = SpoolEvents(self.spool, Moments(clock))
        self.supervisor = RuntimeSupervisor(launch, prover, self.spool, events, clock, told)
        self._thread = threading.Thread(target=self.supervisor.run)
        self._thread.start()
        assert self.supervisor.ready.wait(60)
        assert self.supervisor.delegate_problem == ""

    def activate(self, bundle: MadeBundle) -> None:
        manifest = bundle.manifest
        self.supervisor.activate(manifest.model, bundle.path, bundle.digest, manifest.release)

    def prove(self, bundle: MadeBundle, limits: ProveLimits = LIMITS) -> None:
        self.supervisor.prove(bundle.path, limits, None, threading.Event())

    def unproven(self) -> list[tuple[str, int, str]]:
        batch = self.spool.batch("events", 1 << 20, 10_000)
        records = [telemetry_pb2.TelemetryRecord.FromString(data) for data in batch.records] if batch else []
        events = [record.event for record in records if record.event.kind == "delegate_unproven"]
        return [(event.model, event.release, event.message) for event in events]

    def close(self) -> None:
        self.supervisor.leave()
        self._thread.join(30)
        self.spool.close()


@pytest.fixture
def begin(short_path: Path) -> Iterator[Callable[[Delegate], Device]]:
    made: list[Device] = []

    def start(wanted: Delegate) -> Device:
        made.append(Device(short_path, wanted))
        return made[-1]

    yield start
    for device in made:
        device.close()


def test_a_candidate_is_proved_while_the_champion_holds_the_accelerator_and_runs_on_it(
    library: str, tmp_path: Path, begin: Callable[[Delegate], Device]
) -> None:
    wanted = delegate(library, lock=tmp_path / "lock")
    device = begin(wanted)
    device.activate(make_twice(tmp_path))
    assert "another process holds the accelerator" in why_unusable(wanted)
    candidate = make_twice(tmp_path, release=2)
    device.prove(candidate)
    ((model, release, text),) = device.unproven()
    assert (model, release) == ("twice", 2)
    assert "another process holds the accelerator" in text
    assert "the processor does not run the model" in text
    device.activate(candidate)
    device.supervisor.check("twice")
    assert device.supervisor.is_serving("twice", candidate.digest)


def test_on_the_processor_answers_are_judged_and_latency_is_not(
    library: str, tmp_path: Path, begin: Callable[[Delegate], Device]
) -> None:
    device = begin(delegate(library, lock=tmp_path / "lock"))
    device.activate(make_twice(tmp_path))
    device.prove(make_bundle(tmp_path, release=2, budgets=HURRY))
    assert [(model, release) for model, release, _ in device.unproven()] == [("compass", 2)]
    with pytest.raises(GoldenMismatch):
        device.prove(make_bundle(tmp_path, release=3, labels=(*LABELS[1:], LABELS[0]), golden_labels=LABELS))


def test_one_that_is_said_to_serve_one_process_is_never_made_for_a_proof(
    library: str, tmp_path: Path, begin: Callable[[Delegate], Device]
) -> None:
    lock = tmp_path / "lock"
    device = begin(delegate(library, lock=lock, exclusive=True))
    lock.unlink()  # of the look at the start; no model has taken it yet
    device.prove(make_twice(tmp_path))
    assert not lock.exists()
    assert len(device.unproven()) == 1


def test_a_challenger_runs_on_the_processor_and_is_judged_there(
    library: str, tmp_path: Path, begin: Callable[[Delegate], Device]
) -> None:
    device = begin(delegate(library, lock=tmp_path / "lock", exclusive=True))
    device.prove(make_bundle(tmp_path), CHALLENGER)
    with pytest.raises(TooSlow):
        device.prove(make_bundle(tmp_path, budgets=HURRY), CHALLENGER)
    with pytest.raises(DelegateMissing, match="that of the champions"):
        device.prove(make_twice(tmp_path), CHALLENGER)
    assert device.unproven() == []


@pytest.mark.parametrize(("budget_ms", "is_kept"), [(1e-6, False), (10_000.0, True), (0.0, True)])
def test_the_budget_that_no_proof_could_judge_is_held_on_probation_though_nobody_asks(
    library: str, tmp_path: Path, begin: Callable[[Delegate], Device], budget_ms: float, is_kept: bool
) -> None:
    device = begin(delegate(library, lock=tmp_path / "lock", exclusive=True))
    candidate = make_twice(tmp_path, budgets=Budgets(max_latency_ms=budget_ms))
    device.prove(candidate)
    device.activate(candidate)
    device.supervisor.check("twice")
    figures = device.supervisor.figures("twice")
    assert figures is not None
    assert figures.frames == 0
    judgement = judge(None, figures, Rules(), LOOK_S, 60.0)
    if is_kept:
        assert judgement == Watch(LOOK_S)
    else:
        assert isinstance(judgement, GoBack)
        assert "budget of its manifest" in str(judgement.error)


def test_what_the_proof_could_not_see_keeps_the_candidate_from_the_place_of_the_champion(
    library: str, tmp_path: Path, begin: Callable[[Delegate], Device]
) -> None:
    device = begin(delegate(library, "wrong", exclusive=True))
    candidate = make_twice(tmp_path)
    device.prove(candidate)
    with pytest.raises(GoldenMismatch):
        device.activate(candidate)
    assert not device.supervisor.is_serving("twice", candidate.digest)
