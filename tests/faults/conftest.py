"""Where the fault harness works, what it needs from the machine, and the table that it prints at the end."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fault_crew import Crew, Tally, crew
from fault_device import Kit
from fault_disks import Small, lacking, unmount, unmount_below

_TALLIES: dict[str, Tally] = {}
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture
def tally() -> Any:
    """Return the tally of a name, which the table at the end shows."""
    return lambda name: _TALLIES.setdefault(name, Tally())


@pytest.fixture(scope="session")
def arena() -> Iterator[Path]:
    """A folder in memory if there is one: there, an fsync costs nothing. What is mounted below it is unmounted."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30 else None
    folder = Path(tempfile.mkdtemp(prefix="dsops-faults-", dir=parent))
    try:
        yield folder
    finally:
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kit(arena: Path) -> Path:
    (arena / "kit.world").mkdir()
    Kit.make(arena / "kit.world").save(arena / "kit")
    return arena / "kit"


def lack(what: str) -> None:
    """Skip, loudly and by name; where ``FAULTS_REQUIRED`` is set, as in CI, fail instead."""
    if os.environ.get("FAULTS_REQUIRED"):
        pytest.fail(f"FAULTS REQUIRED: {what}")
    pytest.skip(f"FAULTS NOT RUN: {what}")


@pytest.fixture(scope="session")
def needs_strace() -> None:
    if shutil.which("strace") is None:
        lack("strace is not installed; nothing was killed at its system calls")


@pytest.fixture(scope="session")
def needs_root() -> None:
    if os.geteuid() != 0:
        lack("not root; no file system was mounted")


@pytest.fixture
def small(arena: Path, tmp_path: Path, needs_root: None) -> Iterator[Small]:
    made = Small(arena / tmp_path.name)
    yield made
    unmount(made.folder)


@pytest.fixture(scope="session")
def needs_loop(needs_strace: None, needs_root: None, arena: Path) -> None:
    missing = lacking(arena / "probe")
    if missing:
        lack(f"{missing}; no power was cut")


@pytest.fixture(scope="session")
def strikers(needs_strace: None, arena: Path, kit: Path) -> Iterator[Crew]:
    """Workers that kill and that fail calls."""
    with crew(kit, arena / "crew") as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that it does not run alone at the end."""
    items.sort(key=lambda item: "test_seven_days_offline" not in item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what one of several test processes counted to the one that prints it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tallies"] = {name: asdict(tally) for name, tally in _TALLIES.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for name, counted in getattr(node, "workeroutput", {}).get("tallies", {}).items():
        _TALLIES.setdefault(name, Tally()).merge(Tally(**counted))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _TALLIES:
        return
    terminalreporter.section("faults")
    for name, tally in sorted(_TALLIES.items()):
        terminalreporter.write_line(f"{name:48s} {tally.line()}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(tally) for name, tally in sorted(_TALLIES.items())}, indent=2)
    (RESULTS / "faults.json").write_text(text + "\n", encoding="utf-8")
