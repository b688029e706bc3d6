"""Sinks: bounded queues that drop the oldest, files that rotate, programs that hang."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from feed_stage import SimModel, SimOutlet, SimSink, line_of, row

from dsops.errors import DsopsError, NotServing, TimedOut
from dsops_agent.feed.command_sink import CommandOutlet
from dsops_agent.feed.counts import Counts, FeedStatus, SourceCounts, read_status, write_status
from dsops_agent.feed.file_sink import FileOutlet
from dsops_agent.feed.fit import Frames
from dsops_agent.feed.ports import Answer
from dsops_agent.feed.settings import Command, FileSink
from dsops_agent.feed.sinks import QueuedSink

NEVER = threading.Event()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def eventually(condition: Callable[[], object]) -> None:
    ends_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends_s, "waited in vain"
        time.sleep(0.01)


def answer(name: str, *, again: bool = False, settled: Callable[[], None] = lambda: None) -> Answer:
    return Answer(name, "s", "m", json.dumps({"id": name}).encode(), again, settled)


def test_a_slow_sink_drops_the_oldest_and_counts_them() -> None:
    outlet, counts, settled = SimOutlet(), Counts("file"), []
    sink = QueuedSink("slow", outlet, 3, counts)
    thread = threading.Thread(target=sink.run, args=(NEVER,))
    thread.start()
    sink.put(answer("0", settled=lambda: settled.append(0)))
    outlet.begun.wait(30)
    for number in range(1, 9):
        sink.put(answer(str(number), settled=lambda number=number: settled.append(number)))
    assert settled == [1, 2, 3, 4, 5]
    outlet.failures = [DsopsError("no")]
    outlet.gate.set()
    sink.end()
    thread.join(30)
    assert outlet.written == ["6", "7", "8", "closed"]
    found = counts.of_sink()
    assert (found.answers, found.failures, found.drops) == (3, 1, 5)
    assert sorted(settled) == list(range(9))


def test_what_is_cut_short_at_the_end_is_not_settled() -> None:
    outlet, stop, settled = SimOutlet(), threading.Event(), []
    sink = QueuedSink("s", outlet, 3, Counts("mqtt"))
    thread = threading.Thread(target=sink.run, args=(stop,))
    thread.start()
    outlet.failures = [DsopsError("stopped")]
    for name in ("a", "b"):
        sink.put(answer(name, settled=lambda: settled.append(1)))
    outlet.begun.wait(30)
    stop.set()
    outlet.gate.set()
    thread.join(30)
    assert settled == []


def test_files_rotate_and_are_bounded(tmp_path: Path) -> None:
    settings = FileSink(path=tmp_path / "new" / "a.jsonl", max_bytes=1024, files=3)
    outlet = FileOutlet(settings)
    for number in range(400):
        outlet.write(answer(f"{number:04}"), NEVER)
    outlet.close()
    files = sorted(settings.path.parent.iterdir())
    assert [file.name for file in files] == ["a.jsonl", "a.jsonl.1", "a.jsonl.2"]
    assert all(file.stat().st_size <= 1024 for file in files)
    found = [json.loads(line)["id"] for file in reversed(files) for line in file.read_text().splitlines()]
    assert found == [f"{number:04}" for number in range(400 - len(found), 400)]


def test_only_what_is_given_again_is_left_out_where_it_is(tmp_path: Path) -> None:
    settings = FileSink(path=tmp_path / "a.jsonl")
    FileOutlet(settings).write(answer("1"), NEVER)
    with settings.path.open("ab") as file:
        file.write(b'[1]\n{"id": "2", "half')
    outlet = FileOutlet(settings)
    for name, again in (("1", True), ("2", True), ("3", True), ("1", False)):
        outlet.write(answer(name, again=again), NEVER)
    ids = [json.loads(line) for line in settings.path.read_text().splitlines()]
    assert ids == [{"id": "1"}, [1], {"id": "2"}, {"id": "3"}, {"id": "1"}]


def test_a_disk_that_is_full_leaves_no_half_line(tmp_path: Path) -> None:
    outlet = FileOutlet(FileSink(path=Path("/dev/full")))
    with pytest.raises(OSError, match="No space"):
        outlet.write(answer("1"), NEVER)


def script(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "program.py"
    path.write_text(text)
    return (sys.executable, str(path))


def test_a_program_has_the_answer_as_its_input_and_no_shell(tmp_path: Path) -> None:
    program = script(tmp_path, "import sys; open(sys.argv[1], 'ab').write(sys.stdin.buffer.read())")
    target = tmp_path / "it; touch $(pwned)"
    outlet = CommandOutlet(Command(program=(*program, str(target)), timeout_s=60))
    outlet.write(answer("1"), NEVER)
    outlet.write(answer("2"), NEVER)
    assert target.read_text() == '{"id": "1"}\n{"id": "2"}\n'


def test_a_program_that_fails_or_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DsopsError, match="status 3"):
        CommandOutlet(Command(program=script(tmp_path, "raise SystemExit(3)"), timeout_s=60)).write(answer("1"), NEVER)
    with pytest.raises(OSError, match="No such file"):
        CommandOutlet(Command(program=("/no/such/program",))).write(answer("1"), NEVER)


@pytest.mark.slow
def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    text = (
        "import os, subprocess, time\n"
        f"child = subprocess.Popen(['sleep', '1000'])\nopen({str(pid_file)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(1000)\n"
    )
    outlet = CommandOutlet(Command(program=script(tmp_path, text), timeout_s=5))
    with pytest.raises(TimedOut, match="did not end within 5 s"):
        outlet.write(Answer("1", "s", "m", b"x" * 1_000_000), NEVER)  # more than a pipe takes: it reads nothing
    pid = int(pid_file.read_text())
    eventually(lambda: not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_each_answer_goes_to_each_sink_and_is_settled_once() -> None:
    model, fast, slow = SimModel(), SimSink("fast"), SimSink("slow", settles=False)
    line, counts = line_of(model, fast, slow)
    [found] = line.answers("f", NOW, Frames(row(1, 2, 3, 4)[None], model.form()))
    settled: list[int] = []
    line.give([Answer(found.id, found.source, found.model, found.record, settled=lambda: settled.append(1))])
    assert (fast.ids, slow.ids, settled) == (["inbox/f"], ["inbox/f"], [])
    slow.taken[0].settled()
    assert settled == [1]
    record = json.loads(found.record)
    assert record == {
        "id": "inbox/f",
        "device": "cam-1",
        "source": "inbox",
        "model": "digits",
        "release": 7,
        "digest": "d" * 64,
        "time": "2026-01-01T00:00:00+00:00",
        "outputs": {"score": 10.0},
    }
    assert counts.of_source().answers == 1


def test_many_frames_go_in_several_requests_and_no_number_is_no_json() -> None:
    model = SimModel()
    line, _ = line_of(model)
    frames = np.zeros((70, 4), np.float32)
    frames[69, 0] = np.nan
    found = line.patient_answers("f", NOW, Frames(frames, model.form()), NEVER)
    assert [len(batch) for batch in model.asked] == [32, 32, 6]
    assert [one.id for one in found] == [f"inbox/f#{number}" for number in range(70)]
    assert model.ids == ["inbox/f#0", "inbox/f#32", "inbox/f#64"]
    assert model.keys == ["cam-1/inbox/f#0", "cam-1/inbox/f#32", "cam-1/inbox/f#64"]
    assert json.loads(found[69].record)["outputs"]["score"] is None


def test_a_request_has_a_key_and_an_id_that_is_text() -> None:
    model = SimModel()
    line, _ = line_of(model)
    frames = Frames(row(1, 2, 3, 4)[None], model.form())
    line.answers(os.fsdecode(b"\xff.npy"), NOW, frames)
    replace(line, key="line-4").answers("g", NOW, frames)
    assert model.ids == ["inbox/\\udcff.npy", "inbox/g"]
    assert model.keys == ["cam-1/inbox/\\udcff.npy", "line-4"]


def test_patience_ends_with_the_process() -> None:
    stop = threading.Event()
    model = SimModel(failures=[NotServing("never")] * 1000)
    line, counts = line_of(model)
    found: list[object] = []
    frames = Frames(row(1, 2, 3, 4)[None], model.form())
    thread = threading.Thread(target=lambda: found.append(line.patient_answers("f", NOW, frames, stop)))
    thread.start()
    eventually(lambda: "waits for model digits: never" in counts.of_source().problem)
    stop.set()
    thread.join(30)
    assert found == [[]]


def test_the_status_file_says_nothing_when_it_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    status = FeedStatus(pid=os.getpid(), sources={"a": SourceCounts(kind="camera", frames=3)})
    write_status(path, status)
    assert read_status(path) == status
    path.write_bytes(b"{")
    assert read_status(path) == FeedStatus()
