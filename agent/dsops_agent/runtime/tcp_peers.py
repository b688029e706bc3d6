"""Which user is at the other end of a loopback connection: the kernel lists its sockets with their owners (proc(5))."""

import re
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from dsops_agent.runtime.shares import user_named

UNKNOWN = "an unknown user"
"""Who is no longer listed, or not on this device: all of these count as one."""
_TABLES = Path("/proc/net")
_PEER = re.compile(r"ipv[46]:\[?([0-9a-f.:]+)\]?:([0-9]+)")
_MOST_KNOWN = 512
_FRESH_S = 0.5
"""How long the lists are good for connections that are in them."""
_TIME_WAIT = "06"
"""Such sockets belong to nobody any more, and are listed as root's."""


class TcpPeers:
    """Tells who connected. Safe to call from several threads.

    Args:
        kept_s: How long an answer is kept: to look takes milliseconds, whatever the lists hold.
        tables: Folder of the kernel's lists.
    """

    def __init__(self, kept_s: float = 10.0, tables: Path = _TABLES) -> None:
        self._kept_s = kept_s
        self._tables = tables
        self._known: dict[str, tuple[str, float]] = {}
        self._read: tuple[list[str], float] = [], 0.0

    def user_of(self, peer: str, own_port: int) -> str:
        """Return who connected to a port of ours.

        Args:
            peer: The other end as gRPC writes it, as ``ipv4:127.0.0.1:40100``.
            own_port: Where it connected to.
        """
        user, until_s = self._known.get(peer, (UNKNOWN, 0.0))
        if time.monotonic() < until_s:
            return user
        user = self._look(peer, own_port)
        if len(self._known) >= _MOST_KNOWN:
            self._known = {}  # one step: another thread may look meanwhile
        self._known[peer] = user, time.monotonic() + self._kept_s
        return user

    def _look(self, peer: str, own_port: int) -> str:
        found = _PEER.fullmatch(unquote(peer))
        if found is None:
            return UNKNOWN
        ends = f"{_in_hex(found[1])}:{int(found[2]):04X}", f":{own_port:04X}"
        lines, until_s = self._read
        if time.monotonic() < until_s and (user := _owner(lines, *ends)):
            return user
        lines = [line for name in ("tcp", "tcp6") for line in self._lines(name)]
        self._read = lines, time.monotonic() + _FRESH_S  # for those who are asked about together
        return _owner(lines, *ends) or UNKNOWN

    def _lines(self, name: str) -> list[str]:
        try:
            return (self._tables / name).read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6, say
            return []


def _owner(lines: Iterable[str], local: str, remote: str) -> str:
    """Return whose a connection is, by the ends of its addresses; empty when it is not listed."""
    for line in lines:
        _, ours, theirs, state, _, _, _, uid, *_ = line.split()
        if ours.endswith(local) and theirs.endswith(remote) and state != _TIME_WAIT:
            return user_named(int(uid))
    return ""


def _in_hex(address: str) -> str:
    """Return an address as the lists have it: words of 32 bits in the byte order of the machine.

    An IPv4 address is also the end of the IPv6 address that stands for it.
    """
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
