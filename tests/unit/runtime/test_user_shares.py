"""What one user may hold of what all share, and who that is on a loopback connection."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsops.errors import QueueFull
from dsops_agent.runtime.intake import Intake
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.shares import NOBODY, Shares, most_of, user_named
from dsops_agent.runtime.tcp_peers import UNKNOWN, TcpPeers

NOBODYS_UID = 65534
CONNECTS = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
connection = socket.socket()
connection.connect(("127.0.0.1", int(sys.argv[1])))
sys.stdin.read()
"""


@pytest.mark.parametrize(("whole", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (64, 48), (100, 75)])
def test_a_quarter_is_left_to_others(whole: int, most: int) -> None:
    assert most_of(whole) == most


def test_one_user_gets_no_more_than_its_share_and_others_the_rest() -> None:
    shares = Shares(8)
    shares.take(6, "a")
    assert not shares.fits(1, "a")
    assert shares.fits(2, "b")
    assert not shares.fits(3, "b")
    assert shares.fits(2, NOBODY)
    shares.give_back(1, "a")
    assert shares.fits(1, "a")


def test_large_requests_of_one_user_leave_room_for_another() -> None:
    room = Room(100, wait_s=0.0, small_bytes=10)
    with room.held(70, "a"):
        with pytest.raises(QueueFull):
            room.held(11, "a").__enter__()
        with room.held(10, "a"), room.held(25, "b"), room.held(10, "b"):
            pass


def test_who_takes_long_to_send_keeps_a_place_only_while_nobody_waits_for_it() -> None:
    intake, given_up = Intake(places=1, slow_s=0.05), threading.Event()
    with intake.place("slow", given_up.set):
        time.sleep(0.1)
        assert not given_up.is_set()
        with intake.place("next", pytest.fail):
            assert given_up.is_set()
    with intake.place("after", pytest.fail):
        pass


def test_a_user_who_has_its_share_of_places_waits_for_its_own_and_not_for_others() -> None:
    intake, ended = Intake(places=2, slow_s=0.05), []
    with intake.place("greedy", lambda: ended.append("first")):
        time.sleep(0.1)
        with intake.place("modest", lambda: ended.append("modest")):
            assert not ended
        with intake.place("greedy", lambda: ended.append("second")):
            assert ended == ["first"]


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        yield listener


def name_of(address: tuple[str, int]) -> str:
    return f"ipv4:{address[0]}:{address[1]}"


def test_the_kernel_tells_whose_a_loopback_connection_is() -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as connection:
            peer = name_of(connection.getsockname())
            assert TcpPeers().user_of(peer, port) == user_named(os.geteuid())
            assert TcpPeers().user_of(peer, port + 1) == UNKNOWN
        assert TcpPeers().user_of("ipv4:127.0.0.1:1", port) == UNKNOWN
        assert TcpPeers().user_of("no address", port) == UNKNOWN
        mapped = socket.socket(socket.AF_INET6)  # as gRPC connects
        with mapped:
            mapped.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            mapped.connect(("::ffff:127.0.0.1", port))
            peer = f"ipv4:127.0.0.1:{mapped.getsockname()[1]}"
            assert TcpPeers().user_of(peer, port) == user_named(os.geteuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_told_apart_and_remembered_for_a_while() -> None:
    with listening() as listener:
        port, peers = listener.getsockname()[1], TcpPeers(kept_s=60.0)
        command = [sys.executable, "-c", CONNECTS, str(port), str(NOBODYS_UID)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as other:
            connection, address = listener.accept()
            with connection:
                assert peers.user_of(name_of(address), port) == user_named(NOBODYS_UID)
                assert TcpPeers(tables=Path("/nowhere")).user_of(name_of(address), port) == UNKNOWN
            other.communicate(b"")
        assert peers.user_of(name_of(address), port) == user_named(NOBODYS_UID)
