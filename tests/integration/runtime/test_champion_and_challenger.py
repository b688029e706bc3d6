"""Champion and challenger in real processes, as the agent starts them: mirrored, split, killed."""

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from runtime_bundles import LABELS, MadeBundle, frames, make_bundle, with_section

from dsops.api.v1 import open_inference_grpc_pb2 as pb
from dsops.api.v1 import open_inference_grpc_pb2_grpc, samples_pb2, telemetry_pb2
from dsops.bundle import Bundle
from dsops.client import Inference
from dsops.clock import SystemClock
from dsops.forms import Form
from dsops.manifest import Preprocessing
from dsops.modes import Mode
from dsops_agent.challenger_processes import ChallengerProcesses, Runtimes
from dsops_agent.config_values import CHALLENGER_SOCKET
from dsops_agent.feed.model import SocketModel
from dsops_agent.feed.stdin import Wanted, answer_all
from dsops_agent.install.places import challenger_place
from dsops_agent.moment import Moments
from dsops_agent.proof import Prover
from dsops_agent.rival import Rival
from dsops_agent.runtime.engine import load_bundle
from dsops_agent.runtime.sent import Sent
from dsops_agent.runtime_process import Launch
from dsops_agent.supervisor import RuntimeSupervisor, Told
from dsops_agent.telemetry.collect import SpoolEvents
from dsops_agent.telemetry.spool import Spool

pytestmark = pytest.mark.integration

MODEL = "compass"
PLACE = challenger_place(MODEL)


class Device:
    """The runtime of the champions and the process of a challenger, as the agent has them."""

    def __init__(
        self, folder: Path, run_folder: Path, samples: Mapping[str, float] | None = None, **settings: object
    ) -> None:
        self.samples_kept = samples or {"bytes_per_day": 0}
        self.clock = SystemClock()
        self.run_folder = run_folder
        self.spool = Spool(folder / "spool", 8 << 20)
        self.events = SpoolEvents(self.spool, Moments(self.clock))
        self.started: list[tuple[str, bool]] = []
        self.champions = self.supervise(self.launch(run_folder, settings), lambda _is_first: None)
        self.processes = ChallengerProcesses(
            run_folder,
            self.supervise,
            self.launch_challenger,
            lambda model, has_ended: self.started.append((model, has_ended)),
        )
        self.runtimes = Runtimes(self.champions, self.processes)
        self.thread = threading.Thread(target=self.champions.run)
        self.thread.start()
        self.channel = grpc.insecure_channel(f"unix:{run_folder / 'inference.sock'}")
        self.stub = open_inference_grpc_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def launch(self, folder: Path, more: dict[str, object]) -> Launch:
        settings = {"interval_s": 0.2, "challenger_wait_s": 2.0, "samples": self.samples_kept}
        return Launch(folder, json.dumps(settings | more))

    def launch_challenger(self, folder: Path, model: str, mode: Mode) -> Launch:
        own = {"socket": str(folder / CHALLENGER_SOCKET), "shadow": mode is Mode.SHADOW, "drift_enabled": False}
        found = self.launch(folder, own)
        return replace(found, model=model, mode=mode.value)

    def supervise(self, launch: Launch, started: Callable[[bool], None]) -> RuntimeSupervisor:
        return RuntimeSupervisor(
            launch, Prover(1), self.spool, self.events, self.clock, Told(started, lambda _death: None)
        )

    def activate(self, place: str, bundle: MadeBundle) -> None:
        self.runtimes.activate(place, bundle.path, bundle.digest, bundle.manifest.release)

    def begin(self, champion: MadeBundle, challenger: MadeBundle, mode: Mode, share: float, cpu: float = 1.0) -> None:
        """Serve a champion, and have a challenger compared with it."""
        assert self.champions.ready.wait(60)
        self.activate(MODEL, champion)
        self.runtimes.want({MODEL: mode})
        self.compare(challenger, mode, share, cpu)

    def compare(self, challenger: MadeBundle, mode: Mode, share: float, cpu: float = 1.0) -> None:
        wait_for(lambda: self.runtimes.endpoint(MODEL) is not None, "the challenger's process does not start")
        self.activate(PLACE, challenger)
        endpoint = self.runtimes.endpoint(MODEL)
        assert endpoint is not None
        rival = Rival(
            socket=endpoint.socket,
            pid=endpoint.pid,
            digest=challenger.digest,
            release=challenger.manifest.release,
            mode=mode,
            share=share,
            cpu_share=cpu,
            salt="de-7",
        )
        self.runtimes.compare({MODEL: rival})

    def ask(
        self, key: str = "", version: str = "", count: int = 1, raw: NDArray[np.uint8] | None = None
    ) -> pb.ModelInferResponse:
        message = pb.ModelInferRequest(model_name=MODEL, model_version=version)
        rows = frames(count) if raw is None else raw
        message.inputs.add(name="image", datatype="FP32" if raw is None else "UINT8", shape=rows.shape)
        message.raw_input_contents.append(rows.tobytes())
        if key:
            message.parameters["key"].string_param = key
        return self.stub.ModelInfer(message, timeout=30, wait_for_ready=True)

    def digest(self, key: str = "", version: str = "") -> str:
        return str(self.ask(key, version).parameters["digest"].string_param)

    def records(self) -> list[telemetry_pb2.TelemetryRecord]:
        batches = (self.spool.batch(kind, 8 << 20, 10_000) for kind in ("events", "telemetry"))
        return [telemetry_pb2.TelemetryRecord.FromString(data) for batch in batches if batch for data in batch.records]

    def samples(self) -> list[samples_pb2.SampleRecord]:
        batch = self.spool.batch("samples", 8 << 20, 10_000)
        return [samples_pb2.SampleRecord.FromString(data) for data in batch.records] if batch else []

    def comparisons(self) -> list[telemetry_pb2.ComparisonInterval]:
        return [record.comparison for record in self.records() if record.WhichOneof("kind") == "comparison"]

    def intervals(self, bundle: MadeBundle) -> int:
        """Return how many answers of a bundle were reported."""
        return sum(record.model.count for record in self.records() if record.model.digest == bundle.digest)

    def kill(self) -> None:
        endpoint = self.runtimes.endpoint(MODEL)
        assert endpoint is not None
        os.kill(endpoint.pid, signal.SIGKILL)

    def close(self) -> None:
        self.channel.close()
        self.processes.leave()
        self.champions.leave()
        self.processes.join(20)
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.spool.close()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture
def device(tmp_path: Path, short_path: Path) -> Iterator[Device]:
    made = Device(tmp_path, short_path)
    yield made
    made.close()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[MadeBundle, MadeBundle]:
    """A champion, and a challenger that calls every direction by the name of the next."""
    return make_bundle(tmp_path), make_bundle(tmp_path, release=2, gain=3.0, labels=LABELS[1:] + LABELS[:1])


def total(comparisons: list[telemetry_pb2.ComparisonInterval], name: str) -> int:
    return int(sum(getattr(one, name) for one in comparisons))


def test_copies_go_to_a_shadow_and_its_answers_to_nobody(device: Device, pair: tuple[MadeBundle, MadeBundle]) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SHADOW, 1.0)
    for _ in range(20):
        assert device.digest() == champion.digest
        time.sleep(0.01)
    wait_for(lambda: total(device.comparisons(), "compared") == 20, "copies are not compared")
    found = device.comparisons()
    assert total(found, "disagreed") == 20, "labels were not compared by their names"
    assert (total(found, "skipped"), total(found, "failed"), total(found, "answered")) == (0, 0, 0)
    one = found[0]
    assert (one.model, one.release, one.challenger_release, one.mode) == (MODEL, 1, 2, "shadow")
    assert (one.digest, one.challenger_digest) == (champion.digest, challenger.digest)
    for name in ("latency_us", "challenger_latency_us", "confidence_ppm", "challenger_confidence_ppm", "distance_ppm"):
        assert sum(getattr(each, name).count for each in found) == 20
        assert sum(getattr(each, name).sum for each in found) > 0
    assert device.intervals(challenger) == 0, "answers that nobody got are reported as answers"
    wait_for(lambda: device.intervals(champion) == 20, "the champion's answers are not reported")


def test_the_same_bundle_as_a_shadow_agrees_with_itself(device: Device, tmp_path: Path) -> None:
    champion, challenger = make_bundle(tmp_path), make_bundle(tmp_path, release=2)
    device.begin(champion, challenger, Mode.SHADOW, 1.0)
    device.ask(count=40)
    wait_for(lambda: total(device.comparisons(), "compared") == 40, "copies are not compared")
    assert total(device.comparisons(), "disagreed") == 0
    assert sum(each.distance_ppm.sum for each in device.comparisons()) == 0


SAMPLES = {"inputs": True, "random_rate": 0.0, "uncertain_below": 0.0, "bytes_per_day": 100, "burst_bytes": 80_000}
"""Nothing but disagreements is kept, and of them not more than the burst allows: it fills too slowly to count."""


@pytest.fixture
def sampling(tmp_path: Path, short_path: Path) -> Iterator[Device]:
    made = Device(tmp_path, short_path, SAMPLES)
    yield made
    made.close()


def test_what_a_shadow_answers_otherwise_is_kept_as_a_sample_up_to_the_budget(
    sampling: Device, pair: tuple[MadeBundle, MadeBundle]
) -> None:
    champion, challenger = pair
    sampling.begin(champion, challenger, Mode.SHADOW, 1.0)
    sampling.ask(count=3)
    wait_for(lambda: len(sampling.samples()) == 3, "disagreements are not kept")
    rows = frames(3).astype("<f4")
    for row, sample in enumerate(sampling.samples()):
        assert (sample.reason, sample.model, sample.release) == ("shadow_disagreement", MODEL, 1)
        assert sample.digest == champion.digest, "the sample is of the challenger's answer"
        assert sample.input.data == rows[row].tobytes()
        assert sample.predicted == LABELS[row], "the sample does not tell what the champion said"
        assert 0.0 < sample.score <= 1.0
    for _ in range(20):
        sampling.ask(count=3)
        time.sleep(0.01)
    wait_for(lambda: total(sampling.comparisons(), "disagreed") == 63, "not everything is compared")
    size_bytes = rows[0].nbytes + 4 * len(LABELS)
    assert 3 < len(sampling.samples()) <= SAMPLES["burst_bytes"] / 10 / size_bytes, "the budget does not hold"


def test_what_somebody_asked_for_is_kept_by_whichever_process_and_bundle_serves(
    sampling: Device, pair: tuple[MadeBundle, MadeBundle]
) -> None:
    until = (sampling.clock.now() + timedelta(hours=1)).isoformat()
    sampling.champions.wishes = lambda: [{"id": "q-1", "model": MODEL, "count": 3, "until": until}]
    assert sampling.champions.ready.wait(60)
    sampling.activate(MODEL, pair[0])

    def asked() -> int:
        sampling.ask()
        time.sleep(0.1)
        return len(sampling.samples())

    wait_for(lambda: asked() >= 1, "nothing is kept for who asked")
    sampling.activate(MODEL, pair[1])
    wait_for(lambda: asked() >= 3, "the next bundle keeps none")
    kept = sampling.samples()
    assert [(one.reason, one.requested_by) for one in kept] == [("request", "q-1")] * 3
    assert kept[-1].release == 2
    assert asked() == 3, "more is kept than was asked for"


def test_another_release_has_what_the_one_before_left_of_the_budget_for_samples(
    tmp_path: Path, short_path: Path, pair: tuple[MadeBundle, MadeBundle]
) -> None:
    device = Device(tmp_path, short_path, SAMPLES | {"min_gap_s": 0.0})
    try:
        until = (device.clock.now() + timedelta(hours=1)).isoformat()
        device.champions.wishes = lambda: [{"id": "q-1", "model": MODEL, "count": 1000, "until": until}]
        assert device.champions.ready.wait(60)
        kept = []
        for bundle in pair:
            device.activate(MODEL, bundle)
            for _ in range(10):
                device.ask(count=3)
            wait_for(lambda digest=bundle: device.intervals(digest) == 30, "not everything is reported")  # type: ignore[misc]
            kept.append(len(device.samples()))
        assert 0 < kept[0] < 30, "the budget is not spent"
        assert kept[1] == kept[0], "a new release has a budget of its own"
        assert MODEL in json.loads((short_path / "sample-budgets.json").read_bytes()), "nothing is left for a restart"
    finally:
        device.close()


def test_what_a_shadow_answers_alike_is_not_kept(sampling: Device, tmp_path: Path) -> None:
    champion, challenger = make_bundle(tmp_path), make_bundle(tmp_path, release=2)
    sampling.begin(champion, challenger, Mode.SHADOW, 1.0)
    sampling.ask(count=40)
    wait_for(lambda: total(sampling.comparisons(), "compared") == 40, "copies are not compared")
    assert sampling.samples() == []


def test_the_budget_of_processor_time_holds_copies_back(device: Device, pair: tuple[MadeBundle, MadeBundle]) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SHADOW, 1.0, cpu=0.001)
    device.ask()
    asked = 1

    def is_held_back() -> bool:
        nonlocal asked
        for _ in range(20):
            assert device.digest() == champion.digest
        asked += 20
        return total(device.comparisons(), "skipped") > 0

    wait_for(is_held_back, "nothing was skipped")

    def accounted() -> int:
        found = device.comparisons()
        return total(found, "compared") + total(found, "skipped")

    wait_for(lambda: accounted() == asked, "a copy is neither compared nor counted as skipped")


def test_a_killed_shadow_costs_no_answer(device: Device, pair: tuple[MadeBundle, MadeBundle]) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SHADOW, 1.0)
    stop = threading.Event()
    answers: list[str] = []

    def ask() -> None:
        while not stop.is_set():
            answers.append(device.digest())

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in range(2):
        device.started.clear()
        device.kill()
        wait_for(lambda: bool(device.started), "the challenger's process is not started again")
        assert device.started == [(MODEL, False)], "who is killed did not end by itself"
        device.compare(challenger, Mode.SHADOW, 1.0)
        before = total(device.comparisons(), "compared")
        wait_for(lambda before=before: total(device.comparisons(), "compared") > before, "no more is compared")
    events = [record.event for record in device.records() if record.event.kind == "challenger_restart"]
    assert [(one.model, one.release, one.digest) for one in events] == [(MODEL, 2, challenger.digest)] * 2
    assert all("challenger (shadow) of compass" in one.message for one in events)
    stop.set()
    for asker in askers:
        asker.join(30)
        assert not asker.is_alive(), "a request failed or hangs"
    assert set(answers) == {champion.digest}


@pytest.mark.slow
def test_a_challenger_that_hangs_is_given_up_and_nobody_waits_for_it(
    device: Device, pair: tuple[MadeBundle, MadeBundle]
) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SHADOW, 1.0)
    before = device.runtimes.endpoint(MODEL)
    assert before is not None
    os.kill(before.pid, signal.SIGSTOP)
    device.runtimes.deactivate(PLACE)
    assert device.runtimes.endpoint(MODEL) is None
    assert device.digest() == champion.digest
    device.runtimes.want({MODEL: Mode.SHADOW})
    device.compare(challenger, Mode.SHADOW, 1.0)
    after = device.runtimes.endpoint(MODEL)
    assert after is not None
    assert after.pid != before.pid
    assert not psutil.pid_exists(before.pid), "two have twice the memory"


def test_keys_are_split_and_stay_where_they_are(device: Device, pair: tuple[MadeBundle, MadeBundle]) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SPLIT, 0.5)
    keys = [f"user-{number}" for number in range(60)]
    first = [device.digest(key) for key in keys]
    assert set(first) == {champion.digest, challenger.digest}
    assert [device.digest(key) for key in keys] == first
    assert device.digest() == champion.digest, "who has no key gets the champion"
    mine = keys[first.index(challenger.digest)]
    assert device.digest(mine, version="1") == champion.digest, "who names a release gets it"
    with Inference(device.run_folder / "inference.sock", MODEL) as program:
        told = [program.infer(frames(1), key=key, request_id=keys[0]).digest for key in keys]
        assert told == first, "the client's key does not decide"
        assert program.infer(frames(1), request_id=mine).digest == challenger.digest, "nor does the request's id"
    response = device.ask(mine)
    assert (response.model_version, response.parameters["release"].int64_param) == ("2", 2)
    labels = {tensor.name: raw for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
    assert labels["label"][4:].decode() == LABELS[1], "the answer is not the challenger's"
    assert np.frombuffer(labels["scores"], "<f4").argmax() == 0
    expected = 3 * first.count(challenger.digest) + 2
    wait_for(lambda: total(device.comparisons(), "answered") == expected, "answers are not counted")
    wait_for(lambda: device.intervals(challenger) == expected, "the challenger's answers are not reported")


def test_who_names_the_challenger_of_a_split_gets_it_or_learns_that_it_is_gone(
    device: Device, pair: tuple[MadeBundle, MadeBundle]
) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SPLIT, 0.0001)
    assert device.stub.ModelReady(pb.ModelReadyRequest(name=MODEL, version="2")).ready
    named = [device.ask(f"user-{number}", version="2") for number in range(5)]
    assert {one.parameters["digest"].string_param for one in named} == {challenger.digest}
    assert {one.model_version for one in named} == {"2"}
    assert {device.digest(version="1"), device.digest()} == {champion.digest}
    wait_for(lambda: total(device.comparisons(), "answered") == 5, "answers are not counted")
    with pytest.raises(grpc.RpcError, match="release 3 of model compass is not active"):
        device.ask(version="3")
    device.kill()
    with pytest.raises(grpc.RpcError) as gone:
        device.ask(version="2")
    assert gone.value.code() is grpc.StatusCode.UNAVAILABLE
    assert device.digest(version="1") == champion.digest


def test_who_names_a_shadow_does_not_get_its_answer(device: Device, pair: tuple[MadeBundle, MadeBundle]) -> None:
    device.begin(*pair, Mode.SHADOW, 1.0)
    assert not device.stub.ModelReady(pb.ModelReadyRequest(name=MODEL, version="2")).ready
    with pytest.raises(grpc.RpcError, match="release 2 of model compass is not active"):
        device.ask(version="2")


def test_a_challenger_answers_only_while_champions_leave_some_of_the_devices_share(
    tmp_path: Path, short_path: Path, pair: tuple[MadeBundle, MadeBundle]
) -> None:
    champion, challenger = pair
    device = Device(tmp_path, short_path, cpu_percent=10.0)
    answers = []

    def has_fallen_back() -> bool:
        try:
            answers.extend(device.digest("a") for _ in range(50))
        except grpc.RpcError:  # the champions' own share is used up as well
            time.sleep(0.1)
        return total(device.comparisons(), "fallbacks") > 0

    try:
        device.begin(champion, challenger, Mode.SPLIT, 1.0)
        wait_for(has_fallen_back, "the challenger takes more than is left")
        assert champion.digest in answers
        assert device.runtimes.endpoint(MODEL) is not None, "it is there, and was not asked"
    finally:
        device.close()


def test_without_the_challenger_the_champion_answers_its_keys(
    device: Device, pair: tuple[MadeBundle, MadeBundle]
) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SPLIT, 1.0)
    assert device.digest("a") == challenger.digest
    device.kill()
    for _ in range(30):
        assert device.digest("a") in (champion.digest, challenger.digest)
    wait_for(lambda: len(device.started) == 2, "the challenger's process is not started again")
    device.compare(challenger, Mode.SPLIT, 1.0)
    assert device.digest("a") == challenger.digest
    wait_for(lambda: total(device.comparisons(), "fallbacks") > 0, "fall-backs are not counted")
    device.runtimes.compare({})
    device.runtimes.want({})
    assert device.digest("a") == champion.digest


def test_a_source_has_a_key_or_a_new_one_for_each_request(device: Device, pair: tuple[MadeBundle, MadeBundle]) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SPLIT, 0.5)
    rows = b"\n".join(json.dumps(frames(1)[0].tolist()).encode() for _ in range(40))

    def fed(key: str) -> set[str]:
        said: list[bytes] = []
        model = SocketModel(str(device.run_folder / "inference.sock"), MODEL, "", ("label",))
        answer_all(io.BytesIO(rows), model, Wanted("cam-1", MODEL, key=key), said.append)
        model.close()
        return {json.loads(line)["digest"] for line in said}

    assert fed("") == {champion.digest, challenger.digest}
    for key in ("line-1", "line-2", "line-3", "line-4", "line-5", "line-6"):
        assert fed(key) == {device.digest(key)}


SECTION = Preprocessing(input="image", layout="NHWC", color="GRAY", raw="UINT8", scale=(1 / 255,))
RAW = np.rint(frames(6) * 255).astype(np.uint8)


@pytest.fixture
def unlike(tmp_path: Path) -> tuple[MadeBundle, MadeBundle]:
    """A champion of pixels from 0 to 1, and a challenger of pixels from 0.5 to 0.75: both take the same raw frames."""
    other = SECTION.model_copy(update={"scale": (0.25 / 255,), "offset": (0.5,)})
    return (
        with_section(make_bundle(tmp_path, int8=False), SECTION),
        with_section(make_bundle(tmp_path, release=2, int8=False), other),
    )


def scores_of(bundle: MadeBundle) -> NDArray[np.float32]:
    """What a bundle says of the raw frames when it is asked alone."""
    served = load_bundle(Bundle.open(bundle.path), bundle.digest, 1)
    answer = served.infer(served.prepared({"image": Sent(Form.RAW, RAW)}))
    return np.asarray(answer.outputs[0], np.float32)


def test_a_challenger_prepares_raw_frames_itself(device: Device, unlike: tuple[MadeBundle, MadeBundle]) -> None:
    ours, theirs = map(scores_of, unlike)
    assert np.abs(ours - theirs).max() > 0.1, "this pair tells nothing"
    device.begin(*unlike, Mode.SPLIT, 1.0)
    response = device.ask("a", count=6, raw=RAW)
    assert response.parameters["digest"].string_param == unlike[1].digest
    scores = next(raw for one, raw in zip(response.outputs, response.raw_output_contents, strict=True))
    assert np.frombuffer(scores, "<f4").reshape(6, -1).tolist() == theirs.tolist()
    assert device.digest("a") == unlike[0].digest, "real values for the champion went to the challenger"
    wait_for(lambda: total(device.comparisons(), "fallbacks") == 1, "the champion's answer is not counted")
    assert {one.reason for one in device.comparisons()} <= {"", "challenger_other_preprocessing"}
    assert "challenger_other_preprocessing" in {one.reason for one in device.comparisons()}


def test_a_shadow_is_compared_on_raw_frames_and_says_why_not_on_others(
    device: Device, unlike: tuple[MadeBundle, MadeBundle]
) -> None:
    ours, theirs = map(scores_of, unlike)
    device.begin(*unlike, Mode.SHADOW, 1.0)
    device.ask(count=6, raw=RAW)
    wait_for(lambda: total(device.comparisons(), "compared") == 6, "raw frames are not compared")
    found = sum(each.distance_ppm.sum for each in device.comparisons()) / 1e6
    assert found == pytest.approx(float(np.abs(ours - theirs).sum() / 2), rel=1e-3)
    device.ask(count=3)
    wait_for(lambda: total(device.comparisons(), "failed") == 1, "real values are not accounted for")
    assert device.comparisons()[-1].reason == "challenger_other_preprocessing"
    assert total(device.comparisons(), "compared") == 6


def test_a_shadow_without_raw_frames_is_not_given_any(
    device: Device, tmp_path: Path, unlike: tuple[MadeBundle, MadeBundle]
) -> None:
    device.begin(unlike[0], make_bundle(tmp_path, release=3, int8=False), Mode.SHADOW, 1.0)
    device.ask(count=6, raw=RAW)
    wait_for(lambda: total(device.comparisons(), "failed") == 1, "the copy is not accounted for")
    assert device.comparisons()[-1].reason == "challenger_other_form"
    device.ask(count=6)
    wait_for(lambda: total(device.comparisons(), "compared") == 6, "real values are not compared")


def test_another_mode_is_another_process(device: Device, pair: tuple[MadeBundle, MadeBundle]) -> None:
    champion, challenger = pair
    device.begin(champion, challenger, Mode.SHADOW, 1.0)
    before = device.runtimes.endpoint(MODEL)
    assert before is not None
    assert os.getpriority(os.PRIO_PROCESS, before.pid) == 19
    assert os.sched_getscheduler(before.pid) == os.SCHED_IDLE
    device.runtimes.want({MODEL: Mode.SPLIT})
    device.compare(challenger, Mode.SPLIT, 1.0)
    after = device.runtimes.endpoint(MODEL)
    assert after is not None
    assert after.pid != before.pid
    assert os.getpriority(os.PRIO_PROCESS, after.pid) == os.getpriority(os.PRIO_PROCESS, 0)
    assert device.digest("a") == challenger.digest
