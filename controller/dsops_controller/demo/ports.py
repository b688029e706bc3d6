"""Ports of this host for servers that are to be started."""

import random
import socket

HOST = "127.0.0.1"
_BELOW_EPHEMERAL = range(20_000, 32_768)
"""Linux takes the ports of outgoing connections from 32768 on (ip(7): ip_local_port_range): these it leaves alone."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on at this moment, and that no connection will take by chance."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_BELOW_EPHEMERAL, len(_BELOW_EPHEMERAL)):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True
