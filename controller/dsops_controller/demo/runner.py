"""Runs the demonstration: its folder, its signals, its end."""

import shutil
import signal
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from dsops.errors import DsopsError, Interrupted, InvalidInput
from dsops_controller.demo.report import Report
from dsops_controller.demo.stage import Stage
from dsops_controller.demo.story import Story

LONGEST_BASE = 40


@dataclass(frozen=True)
class Wishes:
    """What the user asked for."""

    devices: int
    seed: int
    keep: bool
    json: Path | None


def run(wishes: Wishes) -> None:
    """Tell the story; then, and when it is interrupted, stop every process and remove the folder.

    Raises:
        DsopsError: A step failed; the folder with the logs is kept.
        Interrupted: SIGINT or SIGTERM came.
    """
    if wishes.json and not wishes.json.absolute().parent.is_dir():
        raise InvalidInput(f"cannot write {wishes.json}", why="its folder does not exist", hint="make the folder first")
    console = Console(highlight=False, soft_wrap=True)
    report = Report(console)
    folder = _new_folder()
    stage = Stage(folder, report.command)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    keep_folder = True
    try:
        names = tuple(f"cam-{number}" for number in range(1, wishes.devices + 1))
        story = Story(stage, report, names, wishes.seed)
        _tell(story, report)
        report.finish()
        if wishes.json:
            report.write_json(wishes.json)
        if wishes.keep:
            _stay(console, stage, names)
        keep_folder = False
    except Interrupted:
        keep_folder = False
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        stage.processes.stop_all()
        if not keep_folder:
            shutil.rmtree(folder, ignore_errors=True)


def _tell(story: Story, report: Report) -> None:
    try:
        story.tell()
    except DsopsError:
        report.say(f"step {len(report.steps) + 1} failed")
        raise


def _new_folder() -> Path:
    """Make the folder below TMPDIR.

    Raises:
        InvalidInput: Sockets in it would have too long a path (unix(7): 107 bytes).
    """
    base = tempfile.gettempdir()
    if len(base.encode()) > LONGEST_BASE:
        why = f"sockets below {base} would have too long a path"
        raise InvalidInput("the demonstration cannot run there", why=why, hint="run it again with TMPDIR=/tmp")
    return Path(tempfile.mkdtemp(prefix="dsops-demo-", dir=base))


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(f"stopped by {signal.Signals(number).name}", hint="every process of the demonstration is stopped")


def _stay(console: Console, stage: Stage, devices: tuple[str, ...]) -> None:
    for device in devices:
        stage.run_agent(device)
    console.print(f"\nEverything still runs; state and logs are in {stage.folder}. In another terminal:", markup=False)
    console.print(f"   export DSOPS_CONTEXT={stage.commands.context}", markup=False)
    for line in ("dsops device list", "dsops rollout list", "dsops drift show", "dsops sample list"):
        console.print(f"   {line}", markup=False)
    socket = stage.inference_socket(devices[0])
    console.print(f"Programs ask {devices[0]} at {socket} (docs/how-to/inference.md).", markup=False, soft_wrap=True)
    console.print("Ctrl-C stops everything.")
    threading.Event().wait()
