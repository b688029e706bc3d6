"""Who may ask: the kernel keeps users out of the sockets who are not named, tried as such users."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_bundles import make_bundle
from serving_runtime import serving

from dsops import access_list
from dsops.errors import Forbidden
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access

NAMED, STRANGER = 61001, 61002
CONNECT = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError as error:
    print(error.strerror)
else:
    print("connected")
"""
OPEN = """
import os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
try:
    os.open(sys.argv[1], os.O_RDWR)
except OSError as error:
    print(error.strerror)
else:
    print("opened")
"""
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as a device's run folder is."""
    folder = Path(tempfile.mkdtemp(prefix="ds"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def opens(path: Path, uid: int) -> str:
    command = [sys.executable, "-c", OPEN, str(path), str(uid)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def connects(path: Path, uid: int) -> str:
    command = [sys.executable, "-c", CONNECT, str(path), str(uid)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@pytest.mark.integration
@root_only
def test_only_users_who_are_named_come_in(open_folder: Path, tmp_path: Path) -> None:
    rest = open_folder / "rest.sock"
    with serving(open_folder, make_bundle(tmp_path), allow=[NAMED], rest=str(rest)):
        for path in (open_folder / "inference.sock", open_folder / "inference.sock.direct", rest):
            assert connects(path, NAMED) == "connected"
            assert connects(path, STRANGER) == "Permission denied"
        assert connects(open_folder / "control.sock", NAMED) == "Permission denied"


@pytest.mark.integration
@root_only
def test_without_names_it_is_the_group(open_folder: Path, tmp_path: Path) -> None:
    with serving(open_folder, make_bundle(tmp_path)):
        assert connects(open_folder / "inference.sock", NAMED) == "Permission denied"
        os.chown(open_folder / "inference.sock", -1, NAMED)
        assert connects(open_folder / "inference.sock", NAMED) == "connected"


@pytest.mark.integration
@root_only
def test_at_a_challengers_socket_nobody_comes_in_who_may_ask_the_champion(open_folder: Path, tmp_path: Path) -> None:
    with serving(open_folder, make_bundle(tmp_path), allow=[NAMED], private=True):
        for socket in (open_folder / "inference.sock", open_folder / "inference.sock.direct"):
            assert connects(socket, NAMED) == "Permission denied"
            os.chown(socket, -1, NAMED)
            assert connects(socket, NAMED) == "Permission denied", "nor do members of the group"
            assert connects(socket, os.geteuid()) == "connected"


@root_only
def test_shared_memory_of_a_user_who_may_not_ask_is_not_taken() -> None:
    key = f"dsops-test-{os.getpid()}-owner"
    path = Path("/dev/shm") / key
    try:
        path.write_bytes(b"1234")
        os.chown(path, STRANGER, STRANGER)
        regions = Regions(Access((NAMED,)).permits)
        with pytest.raises(Forbidden, match=f"uid {STRANGER} may not ask for inference"):
            regions.register("a", key, 0, 4)
        os.chown(path, NAMED, NAMED)
        regions.register("a", key, 0, 4)
    finally:
        path.unlink(missing_ok=True)


@root_only
def test_our_client_opens_its_memory_to_the_agents_user_alone() -> None:
    path = Path("/dev/shm") / f"dsops-test-{os.getpid()}-list"
    try:
        path.write_bytes(b"1234")
        path.chmod(0o600)
        os.setxattr(path, access_list.ATTRIBUTE, access_list.for_users([NAMED]))
        assert opens(path, NAMED) == "opened"
        assert opens(path, STRANGER) == "Permission denied"
    finally:
        path.unlink(missing_ok=True)


def test_who_is_permitted() -> None:
    assert Access((NAMED,)).permits(NAMED)
    assert not Access((NAMED,)).permits(STRANGER)
    assert not Access().permits(STRANGER)
    assert Access().permits(os.geteuid())
    assert Access().permits(0)
    assert not Access((NAMED,), is_private=True).permits(NAMED)
    assert Access(is_private=True).permits(os.geteuid())
