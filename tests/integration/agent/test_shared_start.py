"""The inference process that is a copy of the control process: it shares memory, and else is one like any other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsops_agent.late import POSTPONED
from dsops_agent.shared_start import BOTH_LOAD

pytestmark = pytest.mark.integration

BEFORE = "import sys\nsys.argv[0] = '-m'\nimport dsops_agent.cli, dsops_agent.launching, dsops_agent.shared_start\n"
START = (
    BEFORE
    + """
import json, os, subprocess, threading, time
from pathlib import Path
from dsops_agent.shared_start import start_shared
from dsops_agent.runtime_process import Launch
folder = Path(sys.argv[1])
secret = open(__file__) if "__file__" in globals() else open("/proc/self/maps")
os.set_inheritable(secret.fileno(), True)
if "thread" in sys.argv:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
if "ignored" in sys.argv:
    import signal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
begun = start_shared(Launch(folder, "{}"))
assert begun.is_over(120)
lived = begun.child.poll()
proc = Path(f"/proc/{begun.child.pid}")

def kilobytes(key):
    lines = (proc / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(key))

found = {
    "lived": lived,
    "listens": (folder / "control.sock").exists(),
    "parent": int((proc / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid(),
    "name": (proc / "comm").read_text().strip(),
    "command": (proc / "cmdline").read_text().split("\\0"),
    "shared_kb": kilobytes("Shared_Dirty:"),
    "descriptors": {one.name: os.readlink(one) for one in (proc / "fd").iterdir()},
    "given": begun.child.returncode,
}
if "kill" in sys.argv:
    begun.child.kill()
    found["ended"] = begun.child.wait(60)
else:
    begun.end()
    found["ended"] = begun.child.returncode
begun.child.terminate()  # of one that is gone: nothing
try:
    os.waitpid(-1, os.WNOHANG)
    found["left"] = True
except ChildProcessError:
    found["left"] = False
print(json.dumps(found))
"""
)
ANSWERS = (
    BEFORE
    + """
import importlib, json, os
from pathlib import Path
from dsops_agent import shared_start
from dsops_agent.runtime_process import Launch

def main(arguments):
    import grpc, logging
    seen = {"arguments": arguments, "environment": dict(os.environ), "stdin": os.readlink("/proc/self/fd/0")}
    Path(sys.argv[1], "seen").write_text(json.dumps(seen))
    if "fail" in sys.argv:
        raise RuntimeError("it cannot start")
    return 7

import types
sys.modules[shared_start._MAIN] = types.SimpleNamespace(main=main)
begun = shared_start.start_shared(Launch(Path(sys.argv[1]), '{"queue": 3}'))
assert begun.is_over(60)
print(begun.child.wait(60), os.environ["GRPC_EXPERIMENTS"])
"""
)
MODULES = "print(*(name for name, module in sys.modules.items() if type(module).__name__ == 'module'))"


def run(code: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    everything = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")} | environment
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=everything, check=False
    )


def started(folder: Path, *options: str) -> dict[str, Any]:
    ended = run(START, str(folder), *options)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found["lived"] is None, ended.stderr
    assert found["listens"]
    assert found["parent"]
    return found


@pytest.mark.slow
def test_a_copy_answers_shares_memory_and_ends_when_it_is_told_to(short_path: Path) -> None:
    found = started(short_path)
    assert found["name"] == "dsops-runtime"
    assert found["shared_kb"] > 6000, "what both have loaded is there once"
    assert found["ended"] == 0
    assert not found["left"]


@pytest.mark.slow
def test_a_copy_has_no_file_of_the_process_that_it_was_copied_from(short_path: Path) -> None:
    descriptors = started(short_path, "kill")["descriptors"]
    assert (descriptors["0"], descriptors["1"]) == ("/dev/null", "/dev/null")
    assert not [where for where in descriptors.values() if "maps" in where]


@pytest.mark.slow
def test_one_that_is_killed_says_so(short_path: Path) -> None:
    found = started(short_path, "kill")
    assert found["given"] is None
    assert found["ended"] == -9
    assert not found["left"]


@pytest.mark.slow
def test_it_says_so_where_the_end_of_children_was_ignored(short_path: Path) -> None:
    assert started(short_path, "kill", "ignored")["ended"] == -9


@pytest.mark.slow
def test_beside_a_thread_a_fresh_interpreter_is_started(short_path: Path) -> None:
    found = started(short_path, "thread")
    assert "dsops_agent.runtime" in found["command"]
    assert found["shared_kb"] == 0
    assert found["ended"] == 0


def test_a_copy_is_given_what_a_fresh_one_would_be(tmp_path: Path) -> None:
    ended = run(ANSWERS, str(tmp_path), NOTIFY_SOCKET="/run/notify", OMP_NUM_THREADS="8", MALLOC_ARENA_MAX="many")
    assert ended.stdout.split() == ["7", "-event_engine_listener"], ended.stderr
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["arguments"][:4] == ["--run-folder", str(tmp_path), "--settings", '{"queue": 3}']
    assert seen["stdin"] == "/dev/null"
    environment = seen["environment"]
    assert "NOTIFY_SOCKET" not in environment, "a payload's code must not speak in the agent's name"
    assert (environment["OMP_NUM_THREADS"], environment["OPENBLAS_NUM_THREADS"]) == ("1", "1")
    assert environment["MALLOC_ARENA_MAX"] == "many", "somebody has set it"


def test_a_copy_that_fails_ends_and_goes_on_with_nothing_of_its_parent(tmp_path: Path) -> None:
    ended = run(ANSWERS, str(tmp_path), "fail")
    assert ended.stdout.split()[0] == "1", ended.stderr
    assert len(re.findall("it cannot start", ended.stderr)) == 1


def loaded(code: str) -> set[str]:
    ended = run(f"{BEFORE}{code}\n{MODULES}")
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def test_what_both_processes_load_is_loaded_before_they_part() -> None:
    """Each module that is not there is in memory twice, and takes the time of two processors."""
    control = loaded("dsops_agent.cli.leave_out('pkcs11')\ndsops_agent.cli.leave_out('boto3')\nimport dsops_agent.app")
    data = run(f"import sys\nsys.argv[0] = '-m'\nimport dsops_agent.runtime.__main__\n{MODULES}").stdout.split()
    parting = loaded(f"import {', '.join(BOTH_LOAD)}")
    assert (control & set(data)) - parting - set(POSTPONED) == set()
    assert set(BOTH_LOAD) <= control & set(data), "one of them loads for the other what it does not need"


def test_grpc_is_not_loaded_before_it_is_told_how_to_listen() -> None:
    assert "grpc" not in loaded("")
