"""A process that holds everything imported, and forks a device a fault; it takes and gives JSON lines.

strace attaches to the fork where the story begins, counts its system calls and strikes at the n-th of a name: with
SIGKILL before the call is made, or with an error in its place. Then another fork starts the device again, and judges.
"""

import ctypes
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fault_acks import Acks, read_acks
from fault_device import Device, Kit, Logged
from fault_disks import Disk
from fault_judge import Judge
from fault_stories import STORIES, Other, Story, begin, play
from unsafe_slots import SLOTS

from dsops.errors import DsopsError

CALLS = (
    *("write", "pwrite64", "writev", "pwritev", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("symlink", "symlinkat", "link", "linkat", "mkdir", "mkdirat", "fsync", "fdatasync", "ftruncate", "fallocate"),
    *("open", "openat", "chmod", "fchmod", "fchmodat", "sendfile", "copy_file_range"),
)
READS = ("read", "pread64", "readlink", "readlinkat", "getdents64")
"""Calls that change nothing: only errors strike at them."""
logger = logging.getLogger(__name__)

_LIMIT_S = 120
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)
_STOPPED, _CRASHED = 3, 4


@dataclass(frozen=True)
class Strike:
    """One fault: at the n-th call of a name; ``fault`` is ``SIGKILL`` or the name of an error."""

    call: str
    number: int
    fault: str

    def option(self) -> str:
        kind = "signal" if self.fault == "SIGKILL" else "error"
        return f"inject={self.call}:{kind}={self.fault}:when={self.number}"


def sync_disk(folder: Path) -> None:
    """Write everything back that the folder's file system holds in memory, so that a fault meets only what is new."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(handle)
    finally:
        os.close(handle)


def forked(action: Callable[[], None]) -> int:
    """Run an action in a fork that ends without tidying up, like a process that is killed; return its id."""
    child = os.fork()
    if child:
        return child
    code = _CRASHED
    try:
        signal.alarm(_LIMIT_S)
        action()
        code = 0
    except Exception:
        logger.exception("a fork failed")
    finally:  # nothing of the parent may run here
        os._exit(code)


def waited(child: int) -> int:
    """Wait for a fork; return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Worker:
    """Runs stories and faults in a scratch folder, or on a disk image."""

    def __init__(self, kit: Path, scratch: Path) -> None:
        self._kit = Kit.load(kit)
        self._scratch = scratch
        self._disk: Disk | None = None
        self._states: dict[tuple[str, ...], Path] = {}
        self._log: Any = None
        scratch.mkdir(parents=True, exist_ok=True)

    @property
    def _folder(self) -> Path:
        return (self._disk.mounted if self._disk else self._scratch) / "state"

    @property
    def _acks(self) -> Path:
        return self._scratch / "acks"

    def answer(self, request: dict[str, Any]) -> Any:
        match request.pop("do"):
            case "disk":
                return self.use_disk(**request)
            case "points":
                return self.points(**request)
            case "fault":
                return self.fault(**request)
            case "end":
                return self.leave_disk()
            case unknown:
                raise ValueError(unknown)

    def use_disk(self, kind: str) -> None:
        """Keep the state on a fresh file system from now on."""
        self.leave_disk()
        self._disk = Disk.make(kind, self._scratch / "disks")

    def leave_disk(self) -> None:
        if self._disk:
            self._disk.leave()
        self._disk = None

    def points(self, story: str, slots: str = "real", *, reads: bool = False) -> list[list[Any]]:
        """Play a story without a fault; return its calls that change, or read: name, number, what was called."""
        self._arrange(story, slots)
        trace = self._scratch / "trace"
        child, code = self._play(story, slots, None, trace, READS if reads else CALLS)
        assert code == 0, f"{story} ends with {code} without any fault"
        self._judged(story, slots, self._folder, "none")
        return [list(point) for point in _changes(trace, child, str(self._folder))]

    def fault(
        self, story: str, fault: str, call: str = "", number: int = 0, slots: str = "real", noise: bool | None = None
    ) -> dict[str, Any]:
        """Strike once, start again, judge. With ``noise`` given the power is cut besides.

        Args:
            story: What the device does.
            fault: ``SIGKILL``, or the name of an error.
            call: The system call; empty for none: the story plays to its end.
            number: The how manieth of its name.
            slots: Which slots.
            noise: Whether something else has the file system commit its journal just before the power goes.
        """
        self._arrange(story, slots)
        trace = self._scratch / "trace"
        strike = Strike(call, number, fault) if call else None
        past = len(read_acks(self._acks))
        _, code = self._play(story, slots, strike, trace)
        was_hit = strike is None or code == -signal.SIGKILL or self._was_struck(strike, trace)
        said = _said(read_acks(self._acks)[past:], code) | {"hit": was_hit}
        place = self._folder
        cut = None
        if noise is not None:
            assert self._disk is not None
            if noise:
                self._disk.commit_journal()
            cut = self._disk.cut()
            place = cut.mounted / "state"
        try:
            verdict = self._judged(story, slots, place, fault)
        finally:
            if cut:
                cut.leave()
        return verdict | said

    def _was_struck(self, strike: Strike, trace: Path) -> bool:
        """Return whether an error struck; at a read, of which there are others, only if it was of the state folder."""
        struck = [line for line in trace.read_text().splitlines() if "(INJECTED)" in line]
        return bool(struck) and (strike.call not in READS or str(self._folder) in struck[0])

    def _judged(self, story: str, slots: str, place: Path, fault: str) -> dict[str, Any]:
        result = self._scratch / "verdict"
        result.unlink(missing_ok=True)
        is_disk_fault = fault not in ("SIGKILL", "none")
        told = STORIES[story]
        if isinstance(told, Other):
            code = waited(forked(lambda: _keep(result, asdict(told.judge(place, self._kit, self._acks)))))
        else:
            judge = Judge(self._kit, told, self._acks, is_disk_fault, SLOTS[slots])
            code = waited(forked(lambda: _keep(result, asdict(judge.judge(place)))))
        if code:
            return {"bricked": [f"the judge ended with {code}"], "lost": [], "broken": [], "end": "", "repeated": 0}
        verdict = json.loads(result.read_text())
        assert isinstance(verdict, dict)
        return verdict

    def _arrange(self, story: str, slots: str) -> None:
        """Lay out the state that a story begins with, durable, and what was acknowledged on the way there."""
        before = STORIES[story].before
        source = self._prepared(before, slots) if before else None
        self._acks.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        if source:
            shutil.copytree(source / "state", self._folder, symlinks=True)
            shutil.copy(source / "acks", self._acks)
        else:
            self._folder.mkdir()
        if self._disk:
            sync_disk(self._folder)

    def _prepared(self, stories: tuple[str, ...], slots: str) -> Path:
        key = (slots, *stories)
        if key not in self._states:
            self._arrange("install" if stories[-1] == "killed" else stories[-1], slots)
            code = self._lead(stories[-1], slots)
            assert code in (0, -9), f"{stories} cannot be prepared: {code}"
            self._states[key] = self._scratch / "prepared" / "-".join(key)
            shutil.copytree(self._folder, self._states[key] / "state", symlinks=True)
            shutil.copy(self._acks, self._states[key] / "acks")
        return self._states[key]

    def _lead(self, story: str, slots: str) -> int:
        trace = self._scratch / "trace"
        if story != "killed":
            return self._play(story, slots, None, trace)[1]
        child, _ = self._play("install", slots, None, trace)
        flips = [
            p for p in _changes(trace, child, str(self._folder)) if p[0].startswith("rename") and ".active.new" in p[2]
        ]
        self._arrange("install", slots)
        return self._play("install", slots, Strike(flips[-1][0], flips[-1][1], "SIGKILL"), trace)[1]

    def _play(
        self, name: str, slots: str, strike: Strike | None, trace: Path, calls: tuple[str, ...] = CALLS
    ) -> tuple[int, int]:
        """Play a story in a fork under strace; return its process id and how it ended."""
        story = STORIES[name]
        ready, go = os.pipe(), os.pipe()

        def wait_for_strace() -> None:
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)  # strace is no ancestor
            os.write(ready[1], b"r")
            os.read(go[0], 1)

        child = forked(lambda: self._subject(story, slots, wait_for_strace))
        os.close(ready[1])
        try:
            if os.read(ready[0], 1) != b"r":
                raise RuntimeError(f"{name} ended with {waited(child)} before it began: {read_acks(self._acks)[-3:]}")
            tracer = _attach(child, strike, trace, READS if strike and strike.call in READS else calls)
            os.write(go[1], b"g")
            code = waited(child)
            tracer.communicate()
        finally:
            for handle in (ready[0], *go):
                os.close(handle)
        return child, code

    def _subject(self, story: Story | Other, slots: str, wait_for_strace: Callable[[], None]) -> None:
        acks = Acks(self._acks)
        logging.getLogger().handlers = [Logged(acks)]
        try:
            if isinstance(story, Other):
                story.play(self._folder, self._kit, acks, wait_for_strace)
                return
            if story.struck == "opening":
                wait_for_strace()
            device = Device(self._folder, self._kit, acks, SLOTS[slots])
            if story.struck == "recovery":
                wait_for_strace()
            begin(device, story)
            if story.ill:
                story.ill(device)
            if story.struck == "directive":
                wait_for_strace()
            play(device, story)
        except DsopsError as error:
            acks.put(stopped=error.code)
            os._exit(_STOPPED)
        except Exception:  # it is none of ours, and ends the process: a fault
            logger.exception("the device ended")
            os._exit(_CRASHED)


def _attach(child: int, strike: Strike | None, trace: Path, calls: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """Let strace write the calls, or only those of a strike's name; and of which files, where that is asked for."""
    traced = "trace=" + ",".join(f"?{name}" for name in ([strike.call] if strike else calls))
    command = ["strace", "-f", "-s", "0", "-o", str(trace), "-e", traced, "-e", "signal=none"]
    command += ["-e", strike.option()] if strike else []
    command += [] if strike and strike.call not in READS else ["-y"]
    tracer = subprocess.Popen([*command, "-p", str(child)], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    line = tracer.stderr.readline().decode()
    if "attached" not in line:
        os.kill(child, signal.SIGKILL)
        raise RuntimeError(f"strace cannot attach: {line}")
    return tracer


def _changes(trace: Path, child: int, folder: str) -> list[tuple[str, int, str]]:
    """Return the calls that change something below a folder, each with its number among those of its name."""
    counted: Counter[str] = Counter()
    found = []
    for line in trace.read_text().splitlines():
        match = re.match(r"(\d+)\s+(\w+)\((.*)", line)
        if not match or int(match[1]) != child:
            continue
        name, text = match[2], match[3]
        counted[name] += 1
        opens = name in ("open", "openat")
        if folder in text and not (opens and "O_CREAT" not in text):
            found.append((name, counted[name], text.replace(folder, "")[:120]))
    return found


def _said(acks: list[dict[str, Any]], code: int) -> dict[str, Any]:
    """Return what the device said of the fault, and how it ended."""
    unnamed = [f"{ack['unnamed']} ({ack['where']})" for ack in acks if "unnamed" in ack]
    named = [ack for ack in acks if ack.get("problem") or "warned" in ack or "stopped" in ack]
    return {"code": code, "unnamed": unnamed, "named": bool(named)}


def _keep(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


def main() -> None:
    """Answer one request a line until the input ends."""
    worker = Worker(Path(sys.argv[1]), Path(sys.argv[2]))
    try:
        for line in sys.stdin:
            try:
                reply = {"result": worker.answer(json.loads(line))}
            except Exception:
                logger.exception("a request failed")
                reply = {"error": traceback.format_exc()}
            print(json.dumps(reply), flush=True)
    finally:
        worker.leave_disk()


if __name__ == "__main__":
    main()
