"""A service manager that does what the unit says, and an agent whose start is refused, hangs, or takes long."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_service_manager import TinyServiceManager

from dsops_agent.config import load

pytestmark = [pytest.mark.integration, pytest.mark.slow]

Eventually = Callable[..., None]
Manage = Callable[..., TinyServiceManager]


@pytest.fixture
def manage(agent: Any, short_path: Path) -> Iterator[Manage]:
    made: list[TinyServiceManager] = []

    def start(**keys: str) -> TinyServiceManager:
        command = [sys.executable, "-m", "dsops_agent", "run", "--config", str(agent.folder / "agent.toml")]
        made.append(TinyServiceManager(command, short_path, {"RestartSec": "0.2", **keys}))
        made[0].start()
        return made[0]

    yield start
    for manager in made:
        manager.stop()


def test_a_refused_enrolment_is_not_tried_again(manage: Manage, store: Any) -> None:
    store.tokens["cam-1"] = "another"
    manager = manage()
    manager.join(60)
    assert not manager.is_alive()
    assert [(run.why, run.code) for run in manager.runs] == [("", 4)]


def test_what_ends_by_itself_is_started_again(manage: Manage, eventually: Eventually) -> None:
    manager = manage()
    eventually(lambda: bool(manager.runs) and manager.runs[0].is_ready, 60)
    os.kill(manager.runs[0].pid, signal.SIGKILL)
    eventually(lambda: len(manager.runs) == 2 and manager.runs[1].is_ready, 60)
    assert [(run.why, run.code) for run in manager.runs] == [("", -signal.SIGKILL), ("", None)]


def test_a_start_that_hangs_is_ended_and_tried_again(manage: Manage, eventually: Eventually) -> None:
    manager = manage(TimeoutStartSec="20")
    eventually(lambda: bool(manager.runs), 60)
    os.kill(manager.runs[0].pid, signal.SIGSTOP)
    eventually(lambda: len(manager.runs) == 2 and manager.runs[1].is_ready, 90)
    assert (manager.runs[0].why, manager.runs[0].is_ready) == ("start", False)
    assert manager.runs[1].why == ""


def test_a_start_that_goes_on_may_take_longer_than_the_unit_allows(
    manage: Manage, agent: Any, eventually: Eventually
) -> None:
    """Nothing can be answered here, for which the agent waits 20 s before it says so; the limit is less."""
    load(agent.folder / "agent.toml").config.inference_socket.mkdir(parents=True)
    manager = manage(TimeoutStartSec="15")
    eventually(lambda: any(run.is_ready for run in manager.runs), 90)
    (run,) = manager.runs
    extended = next(at for at, line in enumerate(run.heard) if line.startswith("EXTEND_TIMEOUT_USEC="))
    assert extended < run.heard.index("READY=1")
