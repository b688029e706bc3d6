"""A runtime of a sealed model, which /proc hides from its own control process under ``ProtectProc=invisible``."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsops_agent.endings import holder
from dsops_agent.runtime.claim import PID_FILE, claimed, own_file

HERE = Path(__file__).parent
BUNDLES = HERE.parents[1] / "unit/runtime"
HIDE = "mount -t proc -o hidepid=2,gid=65534 proc /proc && exec setpriv --bounding-set=-all --inh-caps=-all"
UNSHARE = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]


def can_hide() -> bool:
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        return False
    return subprocess.run([*UNSHARE, f"{HIDE} true"], capture_output=True, check=False).returncode == 0


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.skipif(not can_hide(), reason="only root can mount a /proc that hides processes")
def test_a_hidden_runtime_is_taken_over_replaced_and_ended_in_order(short_path: Path, tmp_path: Path) -> None:
    inside = f'{HIDE} "$0" "$@"'
    command = [*UNSHARE, inside, sys.executable, str(HERE / "hidden_control.py"), str(short_path), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(BUNDLES)])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {
        "is_hidden": True,
        "is_taken_over": True,
        "is_replaced": True,
        "replaced_ended_with": 0,
        "was_killed": False,
        "ended_with": 0,
    }


def test_the_pid_file_names_its_process_while_that_lives_and_no_longer(tmp_path: Path) -> None:
    code = "import sys, pathlib\nfrom dsops_agent.runtime.claim import claimed\n"
    code += "with claimed(pathlib.Path(sys.argv[1])):\n    print(flush=True)\n    sys.stdin.read()\n"
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert holder(tmp_path / PID_FILE) is None
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert holder(tmp_path / PID_FILE) == child.pid
        child.kill()
        child.wait()
    assert (tmp_path / PID_FILE).exists(), "nobody removed it"
    assert holder(tmp_path / PID_FILE) is None


def test_what_another_process_put_in_its_place_is_not_removed(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "a.sock", tmp_path / "b.sock"
    for path in (mine, theirs):
        path.touch()
    remove_mine, remove_theirs = own_file(mine), own_file(theirs)
    theirs.unlink()
    theirs.write_text("of another process")
    remove_mine()
    remove_theirs()
    assert [path.name for path in tmp_path.iterdir()] == ["b.sock"]
    with claimed(tmp_path):
        (tmp_path / PID_FILE).unlink()
        (tmp_path / PID_FILE).write_text("4")
    assert (tmp_path / PID_FILE).read_text() == "4"
