"""The watched folder: a kill between any two steps loses no file, and no answer is in the sink's file twice."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from feed_stage import SimModel, SimSink, line_of

from dsops.errors import Forbidden, InvalidInput, NotServing
from dsops_agent.feed.directory import DirectorySource
from dsops_agent.feed.file_sink import FileOutlet
from dsops_agent.feed.inbox import MOST_TRIES, Inbox
from dsops_agent.feed.settings import Directory, FileSink, Source


class Killed(BaseException):
    """The process ends here."""


class Folder:
    """A watched folder, and what outlives a process: its state folder and the file of a sink."""

    def __init__(self, path: Path, *, keep: bool = True) -> None:
        self.path, self.state, self.answers = path / "in", path / "state", path / "answers.jsonl"
        self.settings = Directory(path=self.path, keep=keep, settle_s=0.05)
        self.model = SimModel()
        self.path.mkdir(parents=True)

    def put(self, name: str, values: object) -> None:
        temporary = self.path / f".{name}"
        with temporary.open("wb") as file:
            np.save(file, np.asarray(values, np.float32))
        temporary.rename(self.path / name)

    def process(self, inbox: Inbox | None = None) -> DirectorySource:
        source = Source(name="inbox", model="digits", directory=self.settings)
        return DirectorySource(source, self.settings, inbox or self.inbox())

    def inbox(self) -> Inbox:
        return Inbox(self.path, self.state, keep=self.settings.keep)

    def run(self, *sinks: SimSink, source: DirectorySource | None = None, rounds: int = 6) -> None:
        line, self.counts = line_of(self.model, *sinks)
        source = source or self.process()
        stop = threading.Event()
        source._inbox.prepare()
        source.recover(line)
        for _ in range(rounds):
            source.look(line, stop)

    def names(self, folder: str) -> list[str]:
        place = self.path / folder
        return sorted(entry.name for entry in place.iterdir() if entry.is_file()) if place.is_dir() else []

    @property
    def left_over(self) -> list[str]:
        return sorted(path.name for path in self.state.rglob("*") if path.is_file())


class FileBackedSink(SimSink):
    """Writes through the real outlet of a file at once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.outlet = FileOutlet(FileSink(path=path))

    def put(self, answer: object) -> None:
        self.outlet.write(answer, threading.Event())
        super().put(answer)


def test_files_are_answered_in_order_and_kept(tmp_path: Path) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    folder.put("b.npy", [1, 2, 3, 4])
    folder.put("a.npy", [[1, 1, 1, 1], [2, 2, 2, 2]])
    os.utime(folder.path / "b.npy", (1, 1))
    folder.run(sink)
    assert [name.partition(".npy")[0] for name in sink.ids] == ["inbox/b", "inbox/a", "inbox/a"]
    assert [name.partition("#")[2] for name in sink.ids] == ["", "0", "1"]
    assert (folder.names("done"), folder.names(""), folder.names(".work")) == (["a.npy", "b.npy"], [], [])
    assert folder.left_over == []
    counts = folder.counts.of_source()
    assert (counts.frames, counts.answers, counts.failures) == (3, 3, 0)


def test_files_are_deleted_when_that_is_wanted(tmp_path: Path) -> None:
    folder, sink = Folder(tmp_path, keep=False), SimSink()
    folder.put("a.npy", [1, 2, 3, 4])
    folder.run(sink)
    assert len(sink.ids) == 1
    assert folder.names("done") == folder.names("") == folder.names(".work") == folder.left_over == []


def test_a_file_of_a_name_that_was_there_before_overwrites_nothing(tmp_path: Path) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    for number in range(3):
        folder.put("a.npy", [number] * 4)
        folder.run(sink)
    assert folder.names("done") == ["a.1.npy", "a.2.npy", "a.npy"]
    assert len(set(sink.ids)) == 3


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    source = folder.process()
    path = folder.path / "slow.npy"
    for size in range(1, 12):
        path.write_bytes(b"x" * size)
        folder.run(sink, source=source, rounds=1)
    (folder.path / ".hidden.npy").write_bytes(b"x")
    (folder.path / "link.npy").symlink_to("/etc/hostname")
    (folder.path / "sub").mkdir()
    path.unlink()
    folder.run(sink)
    assert sink.ids == folder.names("failed") == []
    assert (folder.path / "link.npy").is_symlink()


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("text.npy", b"hello", "not a .npy file"),
        ("notes.txt", b"hello", "files that end in .txt are not known"),
        ("short.raw", b"123", "3 bytes are not a number of float32 frames of 4"),
        ("sound.wav", b"RIFF", "not a .wav file"),
        ("picture.png", b"\x89PNG", "no picture"),
    ],
)
def test_bad_files_go_aside_with_the_reason(tmp_path: Path, name: str, data: bytes, why: str) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    (folder.path / name).write_bytes(data)
    folder.put("good.npy", [1, 2, 3, 4])
    folder.run(sink)
    assert folder.names("failed") == [name, f"{name}.reason"]
    assert why in (folder.path / "failed" / f"{name}.reason").read_text()
    assert len(sink.ids) == 1
    assert folder.counts.of_source().failures == 1
    assert folder.left_over == []


def test_what_is_too_long_is_not_read(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.settings = folder.settings.model_copy(update={"max_bytes": 100})
    folder.put("a.npy", np.zeros((50, 4)))
    folder.run(SimSink())
    assert "bytes, and 100 are taken" in (folder.path / "failed" / "a.npy.reason").read_text()


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "b" * 255, "tab\tnew\nline.txt", "\udcff\udcfe.npy"])
def test_strange_names_hold_nobody_up(tmp_path: Path, name: str) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    for _ in range(2):  # the second one finds its place taken
        (folder.path / name).write_bytes(b"no")
        folder.run(sink)
    folder.put("good.npy", [1, 2, 3, 4])
    folder.run(sink)
    assert len(sink.ids) == 1
    assert len(folder.names("failed")) >= 3
    assert json.loads(folder.counts.of_source().model_dump_json())
    assert folder.names("") == folder.names(".work") == folder.left_over == []


def test_who_fills_the_folder_does_not_choose_where_files_go(tmp_path: Path) -> None:
    folder, elsewhere = Folder(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder.path / ".work").symlink_to(elsewhere)
    folder.put("a.npy", [1, 2, 3, 4])
    with pytest.raises(OSError, match="Not a directory"):
        folder.run(SimSink())
    (folder.path / ".work").unlink()
    source = folder.process()
    source._inbox.prepare()
    (folder.path / "done").rename(folder.path / "mine")
    (folder.path / "done").symlink_to(elsewhere)
    line, _ = line_of(folder.model, SimSink())
    for _ in range(6):
        source.look(line, threading.Event())
    assert folder.names("mine") == ["a.npy"]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (folder.path / "failed").mkdir()
    os.chown(folder.path / "failed", 1000, 1000)
    with pytest.raises(PermissionError, match="not made by the agent"):
        folder.run(SimSink())


@pytest.mark.parametrize("error", [InvalidInput("no"), Forbidden("no")])
def test_what_the_model_refuses_goes_aside(tmp_path: Path, error: Exception) -> None:
    folder = Folder(tmp_path)
    folder.model.failures = [NotServing("later"), error]
    folder.put("a.npy", [1, 2, 3, 4])
    folder.run(SimSink())
    assert folder.names("failed") == ["a.npy", "a.npy.reason"]


def test_a_release_with_another_input_that_comes_meanwhile_costs_no_file(tmp_path: Path) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    folder.model.failures, folder.model.later_shape = [InvalidInput("has shape 4, and 2x2 is taken")], (2, 2, 1)
    folder.put("a.npy", [[1, 2], [3, 4]])
    folder.model.shape = (2, 2)
    folder.run(sink)
    assert [batch.shape for batch in folder.model.asked] == [(1, 2, 2, 1)]
    assert len(sink.ids) == 1
    assert folder.names("failed") == []


def test_while_no_model_is_there_files_wait(tmp_path: Path) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    folder.model.failures = [NotServing("no model is active")] * 2
    folder.put("a.npy", [1, 2, 3, 4])
    folder.run(sink)
    assert len(sink.ids) == 1
    assert folder.counts.of_source().failures == 0


def test_a_file_that_ends_the_process_is_given_up(tmp_path: Path) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    folder.put("bomb.npy", [1, 2, 3, 4])
    for _ in range(MOST_TRIES):
        source = folder.process()
        source._frames = lambda *_: (_ for _ in ()).throw(Killed())  # what a crash of a decoder is to the state
        with pytest.raises(Killed):
            folder.run(sink, source=source)
    folder.run(sink)
    assert sink.ids == []
    assert "the process ended 3 times" in (folder.path / "failed" / "bomb.npy.reason").read_text()
    assert folder.left_over == []


def test_answers_wait_for_the_sinks_over_a_restart(tmp_path: Path) -> None:
    folder, slow = Folder(tmp_path), SimSink(settles=False)
    folder.put("a.npy", [1, 2, 3, 4])
    folder.run(slow)
    assert folder.names("done") == ["a.npy"]
    assert len(folder.left_over) == 1
    again = SimSink()
    folder.run(again)
    assert (again.ids, again.taken[0].record) == (slow.ids, slow.taken[0].record)
    assert again.taken[0].is_again
    assert folder.left_over == []
    assert len(folder.model.asked) == 1


def test_damaged_answers_are_set_aside(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.run(SimSink(settles=False), rounds=1)
    (folder.state / "x.answers").write_bytes(b"{")
    folder.put("a.npy", [1, 2, 3, 4])
    sink = SimSink()
    folder.run(sink)
    assert folder.left_over == ["x.damaged"]
    assert len(sink.ids) == 1


class DyingInbox(Inbox):
    """Ends the process before or after a step, counted over all steps."""

    def __init__(self, inside: Inbox, steps: Callable[[], None]) -> None:
        self.__dict__.update(inside.__dict__)
        for name in ("claim", "try_again", "decoded", "answered", "move", "settle", "fail"):
            setattr(self, name, self._dying(getattr(inside, name), steps))

    @staticmethod
    def _dying(step: Callable[..., object], steps: Callable[[], None]) -> Callable[..., object]:
        def die_around(*args: object) -> object:
            steps()
            found = step(*args)
            steps()
            return found

        return die_around


@pytest.mark.slow
@pytest.mark.parametrize("keep", [True, False])
def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(tmp_path: Path, keep: bool) -> None:
    for point in count():
        folder = Folder(tmp_path / str(point), keep=keep)
        names = ["a.npy", "b.npy", "bad.txt"]
        folder.put("a.npy", [1, 2, 3, 4])
        folder.put("b.npy", [[5, 6, 7, 8], [1, 0, 0, 0]])
        (folder.path / "bad.txt").write_bytes(b"no")
        died = _run_until(folder, point)
        folder.run(FileBackedSink(folder.answers))
        lines = folder.answers.read_text().splitlines()
        assert len(lines) == len(set(lines)) == 3, f"killed at {point}"
        assert folder.names("failed") == ["bad.txt", "bad.txt.reason"]
        assert folder.names("done") == (names[:2] if keep else [])
        assert folder.names("") == folder.names(".work") == folder.left_over == []
        if not died:
            assert point > 25
            return


def _run_until(folder: Folder, point: int) -> bool:
    left = [point]

    def steps() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    try:
        folder.run(FileBackedSink(folder.answers), source=folder.process(DyingInbox(folder.inbox(), steps)))
    except Killed:
        return True
    return False


def test_a_folder_that_is_away_is_waited_for(tmp_path: Path) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    folder.path.rmdir()
    folder.path.parent.joinpath("in").write_text("a file is in the way")
    line, counts = line_of(folder.model, sink)
    stop = threading.Event()
    thread = threading.Thread(target=folder.process().run, args=(line, stop))
    thread.start()
    ends_s = time.monotonic() + 30
    while "in" not in counts.of_source().problem:
        assert time.monotonic() < ends_s
        time.sleep(0.01)
    folder.path.unlink()
    folder.path.mkdir()
    folder.put("a.npy", [1, 2, 3, 4])
    while not sink.ids:
        assert time.monotonic() < ends_s
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert counts.of_source().problem == ""


def test_pictures_wait_where_there_is_no_opencv_and_other_files_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sink = Folder(tmp_path), SimSink()
    folder.put("a.npy", [1, 2, 3, 4])
    (folder.path / "b.png").write_bytes(b"a picture")
    monkeypatch.setitem(sys.modules, "cv2", None)  # as it is where nobody has installed it
    folder.run(sink)
    assert (len(sink.taken), folder.names("."), folder.names("failed")) == (1, ["b.png"], [])
    assert "pip install 'dsops[camera]'" in folder.counts.of_source().problem
    monkeypatch.undo()
    folder.run(sink)
    assert len(folder.names("failed")) == 2, "it is no picture after all, and its reason stands beside it"
