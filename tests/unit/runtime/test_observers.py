"""Who looks at answered requests: the queue between the request path and the watches."""

import mmap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from runtime_bundles import frames, make_bundle
from runtime_watches import Witness
from typing_extensions import override

from dsops.bundle import Bundle
from dsops.clock import SystemClock
from dsops.forms import Form
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.engine import ServedModel, load_bundle
from dsops_agent.runtime.health import Health
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.observe import SLICE_FRAMES, Observation, Observers
from dsops_agent.runtime.sent import Sent
from dsops_agent.runtime.swap import Serving

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    bundle = make_bundle(tmp_path_factory.mktemp("bundle"))
    return load_bundle(Bundle.open(bundle.path), bundle.digest, 1)


class Bench:
    """Observers whose thread runs when it is told to."""

    def __init__(self, served: ServedModel, *, is_broken: bool = False, **limits: int) -> None:
        self.served = served
        self.witness = Witness(is_broken=is_broken)
        self.serving = Serving(served, self.witness, Health(served, SystemClock()))
        self.observers = Observers(**limits)

    def observation(self, count: int = 1, request_id: str = "", serving: Serving | None = None) -> Observation:
        rows = frames(count)
        answer = self.served.infer({"image": rows})
        return Observation.of(serving or self.serving, {"image": rows}, answer, request_id)

    def finish(self) -> None:
        self.observers.stop()
        self.observers.run()


def test_everything_that_is_offered_is_seen_in_order(served: ServedModel) -> None:
    bench = Bench(served)
    names = [f"r-{number}" for number in range(50)]
    assert all(bench.observers.offer(bench.observation(1 + number % 3, name)) for number, name in enumerate(names))
    assert bench.witness.seen == []
    bench.finish()
    assert bench.witness.requests == names
    assert bench.witness.unobserved == 0


def test_the_two_bundles_of_a_swap_see_their_own_requests_only(served: ServedModel) -> None:
    bench, other = Bench(served), Witness()
    after = Serving(served, other, Health(served, SystemClock()))
    for number in range(6):
        bench.observers.offer(bench.observation(1, str(number), after if number % 2 else None))
    bench.finish()
    assert (bench.witness.requests, other.requests) == (["0", "2", "4"], ["1", "3", "5"])


def test_a_long_request_is_shown_in_slices_that_lose_nothing(served: ServedModel) -> None:
    bench = Bench(served)
    whole = bench.observation(3 * SLICE_FRAMES + 5, "long")
    bench.observers.offer(whole)
    bench.finish()
    seen = bench.witness.seen
    assert [part.frames for part in seen] == [SLICE_FRAMES] * 3 + [5]
    for rebuilt, given in (
        (np.concatenate([part.inputs["image"] for part in seen]), whole.inputs["image"]),
        (np.concatenate([part.answer.outputs[0] for part in seen]), whole.answer.outputs[0]),
        (np.concatenate([part.answer.scores for part in seen]), whole.answer.scores),
        (np.concatenate([part.answer.choices for part in seen]), whole.answer.choices),
    ):
        assert np.array_equal(rebuilt, given)
    assert sum((part.answer.latency_us for part in seen), ()) == whole.answer.latency_us


@pytest.mark.parametrize("limits", [{"max_frames": 5}, {"max_bytes": 5 * (64 + 16)}])
def test_what_does_not_fit_is_let_go_and_counted_by_frames(served: ServedModel, limits: dict[str, int]) -> None:
    bench = Bench(served, **limits)
    taken = [bench.observers.offer(bench.observation(2, str(number))) for number in range(4)]
    assert taken == [True, True, False, False]
    assert bench.witness.unobserved == 4
    assert bench.observers.offer(bench.observation(1, "small"))
    bench.finish()
    assert bench.witness.requests == ["0", "1", "small"]
    assert bench.observers.offer(bench.observation(2))


def test_a_request_larger_than_the_queue_is_seen_when_nothing_else_waits(served: ServedModel) -> None:
    bench = Bench(served, max_frames=4, max_bytes=100)
    assert bench.observers.offer(bench.observation(9))
    assert not bench.observers.offer(bench.observation(1))
    bench.finish()
    assert sum(part.frames for part in bench.witness.seen) == 9


def test_a_broken_watch_and_a_broken_listener_stop_nothing(
    served: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(observation: Observation) -> None:
        raise RuntimeError("this listener is broken")

    bench, heard = Bench(served, is_broken=True), []
    bench.observers.listen(broken)
    bench.observers.listen(heard.append)
    offered = [bench.observation(2, str(number)) for number in range(3)]
    for one in offered:
        bench.observers.offer(one)
    bench.finish()
    assert heard == offered
    assert bench.witness.unobserved == 6
    assert caplog.text.count("an answer could not be passed on") == 3
    assert "an answer could not be recorded" in caplog.text


def test_a_listener_that_is_forgotten_hears_nothing_more(served: ServedModel) -> None:
    bench, heard = Bench(served), []
    listener = heard.append
    bench.observers.listen(listener)
    bench.observers.forget(listener)
    bench.observers.offer(bench.observation())
    bench.finish()
    assert heard == []


class Mute(Witness):
    """A watch that cannot even be told what was let go."""

    @override
    def shed(self, frames: int) -> None:
        raise RuntimeError("this watch is broken")


def test_an_offer_never_raises(served: ServedModel) -> None:
    bench = Bench(served, max_frames=1)
    mute = Serving(served, Mute(), Health(served, SystemClock()))
    assert bench.observers.offer(bench.observation(1, serving=mute))
    assert not bench.observers.offer(bench.observation(1, serving=mute))


def shared_frames(area: mmap.mmap, count: int) -> Array:
    rows: Array = np.frombuffer(memoryview(area)[: count * 64], np.float32).reshape(count, 4, 4, 1)
    return rows


def test_memory_that_a_caller_writes_to_again_is_copied(served: ServedModel) -> None:
    bench = Bench(served)
    area = mmap.mmap(-1, 4096)
    rows = shared_frames(area, 2)
    rows[:] = frames(2)
    answer = served.infer({"image": rows})
    bench.observers.offer(Observation.of(bench.serving, {"image": rows}, answer, ""))
    rows[:] = 0.0
    bench.finish()
    assert np.array_equal(bench.witness.seen[0].inputs["image"], frames(2))


def test_what_a_challenger_shall_get_is_copied_too_and_once_where_it_is_the_same(served: ServedModel) -> None:
    bench = Bench(served)
    told: list[Observation] = []
    bench.observers.listen(told.append)
    area = mmap.mmap(-1, 4096)
    real, raw = shared_frames(area, 2), np.frombuffer(area, np.uint8, 32, 2048).reshape(2, 4, 4, 1)
    real[:], raw[:] = frames(2), 7
    answer = served.infer({"image": real})
    for form, values in ((Form.REAL, real), (Form.RAW, raw)):
        copied = {"image": Sent(form, values)}
        bench.observers.offer(Observation.of(bench.serving, {"image": real}, answer, "", copied))
    real[:], raw[:] = 0.0, 0
    bench.finish()
    same, other = told
    assert same.copied is not None
    assert same.copied["image"].values is same.inputs["image"]
    assert np.array_equal(same.inputs["image"], frames(2))
    assert other.copied is not None
    assert other.copied["image"].values.tolist() == np.full((2, 4, 4, 1), 7).tolist()
    assert other.size_bytes == same.size_bytes + 32


def test_memory_that_nobody_writes_to_is_not_copied(served: ServedModel) -> None:
    bench = Bench(served)
    raw = frames(2).tobytes()
    rows = np.frombuffer(raw, "<f4").astype(np.float32, copy=False).reshape(2, 4, 4, 1)
    bench.observers.offer(Observation.of(bench.serving, {"image": rows}, served.infer({"image": rows}), ""))
    bench.finish()
    assert bench.witness.seen[0].inputs["image"] is rows


@pytest.fixture
def running(served: ServedModel) -> Iterator[Bench]:
    bench = Bench(served)
    thread = threading.Thread(target=bench.observers.run)
    thread.start()
    yield bench
    bench.observers.stop()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_settling_waits_for_what_was_offered_before(running: Bench) -> None:
    for number in range(200):
        running.observers.offer(running.observation(1, str(number)))
    assert running.observers.settle(DEADLINE_S)
    assert len(running.witness.seen) == 200


def test_a_thread_that_fell_asleep_is_woken(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsops_agent.runtime.observe._QUIET_S", 0.0)
    bench, heard = Bench(served), threading.Event()
    bench.observers.listen(lambda _: heard.set())
    thread = threading.Thread(target=bench.observers.run)
    thread.start()
    for _ in range(3):
        heard.clear()
        bench.observers.offer(bench.observation())
        assert heard.wait(DEADLINE_S)
    bench.observers.stop()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_frames_gather_no_longer_than_until_half_of_the_queue_is_taken(
    served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsops_agent.runtime.observe.GATHER_S", 3 * DEADLINE_S)
    bench, heard = Bench(served, max_frames=8), threading.Semaphore(0)
    bench.observers.listen(lambda _: heard.release())
    thread = threading.Thread(target=bench.observers.run)
    bench.observers.offer(bench.observation())
    thread.start()
    assert heard.acquire(timeout=DEADLINE_S)
    for _ in range(8):
        bench.observers.offer(bench.observation())
    for _ in range(4):  # the last four may wait
        assert heard.acquire(timeout=DEADLINE_S)
    bench.observers.stop()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_settling_gives_up_when_nobody_looks(served: ServedModel) -> None:
    bench = Bench(served)
    assert bench.observers.settle(0.01)
    bench.observers.offer(bench.observation())
    assert not bench.observers.settle(0.01)


def test_offers_of_many_threads_are_all_seen_or_counted(served: ServedModel) -> None:
    bench = Bench(served, max_frames=40)
    one = bench.observation(2)
    reader = threading.Thread(target=bench.observers.run)
    reader.start()

    def offer() -> None:
        for _ in range(300):
            bench.observers.offer(one)

    writers = [threading.Thread(target=offer) for _ in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join(DEADLINE_S)
    bench.observers.stop()
    reader.join(DEADLINE_S)
    assert sum(part.frames for part in bench.witness.seen) + bench.witness.unobserved == 4 * 300 * 2


def test_an_answer_with_nothing_but_outputs_can_be_cut(tmp_path: Path, served: ServedModel) -> None:
    answer = served.infer({"image": frames(4)})
    bare = Answer(answer.outputs, type(answer.decision)(), answer.latency_us)
    bench = Bench(served)
    whole = Observation.of(bench.serving, {"image": frames(4)}, bare, "").exchange
    part = whole.part(1, 3)
    assert (part.frames, part.answer.decision.scores, part.answer.latency_us) == (2, None, answer.latency_us[1:3])
