"""``dsops-agent quarantine`` beside a running agent, and without one."""

import json
from pathlib import Path
from typing import Any

import pytest

from dsops.messages import Problem
from dsops_agent.install.journal import Journal

pytestmark = pytest.mark.integration

DIGESTS = [f"{number}{'ab' * 31}{number}" for number in range(3)]


@pytest.fixture
def condemned(agent: Any) -> Path:
    """A device that has three bundles in quarantine."""
    state: Path = agent.folder / "state"
    state.mkdir()
    journal = Journal(state / "journal.db")
    for digest in DIGESTS:
        journal.quarantine("digits", digest, Problem(code="bundle.golden_mismatch", message="3 of 32 differ"))
    journal.close()
    return state


def quarantine(ask: Any, folder: Path) -> list[str]:
    return [row["digest"] for row in json.loads(ask(folder, "quarantine", "list", "-o", "json").stdout)]


def test_without_an_agent_the_journal_is_changed(agent: Any, condemned: Path, ask: Any) -> None:
    folder = agent.folder
    table = ask(folder, "quarantine", "list").stdout.splitlines()
    assert table[0].split() == ["MODEL", "DIGEST", "CODE", "TEXT"]
    assert table[1].split() == ["digits", DIGESTS[2], "bundle.golden_mismatch", "3", "of", "32", "differ"]
    done = ask(folder, "quarantine", "clear", DIGESTS[1][:8])
    assert (done.returncode, done.stdout) == (0, f"{DIGESTS[1]} is not in quarantine any more\n")
    assert quarantine(ask, folder) == [DIGESTS[2], DIGESTS[0]]


def test_a_digest_that_is_not_there_is_named(agent: Any, condemned: Path, ask: Any) -> None:
    failed = ask(agent.folder, "quarantine", "clear", "9" * 64)
    assert failed.returncode != 0
    assert "no bundle 9999" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.slow
def test_beside_an_agent_it_is_asked(agent: Any, condemned: Path, ask: Any, eventually: Any) -> None:
    agent.start()
    eventually(agent.is_well)
    assert quarantine(ask, agent.folder) == DIGESTS[::-1]
    assert ask(agent.folder, "quarantine", "clear", DIGESTS[0]).returncode == 0
    eventually(lambda: quarantine(ask, agent.folder) == [DIGESTS[2], DIGESTS[1]])
    agent.signal(15)
    agent.wait()
    assert quarantine(ask, agent.folder) == [DIGESTS[2], DIGESTS[1]]
