"""Which user is at the other end of a loopback connection: the kernel lists its sockets with their owners (proc(5))."""

import re
import socket
import sys
from pathlib import Path
from urllib.parse import unquote

from dsops_agent.runtime.shares import user_named

UNKNOWN = "an unknown user"
"""Who is no longer listed, or not on this device: all of these count as one."""
_TABLES = Path("/proc/net")
_PEER = re.compile(r"ipv[46]:\[?([0-9a-f.:]+)\]?:([0-9]+)")
_TIME_WAIT = "06"
"""Such sockets belong to nobody any more, and are listed as root's."""


def user_of(peer: str, own_port: int, tables: Path = _TABLES) -> str:
    """Return who connected to a port of ours.

    Args:
        peer: The other end as gRPC writes it, as ``ipv4:127.0.0.1:40100``.
        own_port: Where it connected to.
        tables: Folder of the kernel's lists.
    """
    found = _PEER.fullmatch(unquote(peer))
    if found is None:
        return UNKNOWN
    local, remote = f"{_in_hex(found[1])}:{int(found[2]):04X}", f":{own_port:04X}"
    for name in ("tcp", "tcp6"):
        try:
            lines = (tables / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, ours, theirs, state, _, _, _, uid, *_ = line.split()
            if ours.endswith(local) and theirs.endswith(remote) and state != _TIME_WAIT:
                return user_named(int(uid))
    return UNKNOWN


def _in_hex(address: str) -> str:
    """Return an address as the lists have it: words of 32 bits in the byte order of the machine.

    An IPv4 address is also the end of the IPv6 address that stands for it.
    """
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
