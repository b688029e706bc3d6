"""Where :mod:`dsops.client` asks: a socket of the agent on this device, or a loopback address, and nothing else."""

import os
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias

from dsops.direct import direct_path
from dsops.errors import InvalidInput

Place: TypeAlias = Path | str
"""The path of an inference socket, or the target of a loopback address as gRPC writes it."""
_HINT = "give the path of inference.sock, with a slash in it, or a loopback address as 127.0.0.1:8001"


def place_of(address: object) -> Place:
    """Return what an address means.

    A text without a slash is the path of a socket where there is one, and host:port otherwise.

    Raises:
        InvalidInput: It is no path, or frames would leave the device by it.
    """
    if not isinstance(address, str | Path):
        raise InvalidInput("an address is a text or a Path", why=f"got {address!r}", hint=_HINT)
    if isinstance(address, Path) or "/" in address or _is_there(address):
        return _path(address)
    return _target(address)


def _path(address: str | Path) -> Path:
    try:
        is_one = b"\0" not in os.fsencode(address)
    except UnicodeEncodeError:
        is_one = False
    if not is_one:
        raise InvalidInput("the path of the inference socket is no path", why=f"got {str(address)!r}", hint=_HINT)
    return Path(address).absolute()


def _is_there(text: str) -> bool:
    try:
        return bool(text) and (Path(text).is_socket() or direct_path(text).is_socket())
    except (OSError, ValueError):  # what can be no path
        return False


def _target(address: str) -> str:
    """Return a loopback address with its kind, so that gRPC asks no name server who that is."""
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port[:6]) < 65536:
        raise InvalidInput(f"{address!r} is neither a socket that is there nor host:port", hint=_HINT)
    try:
        ip = ip_address("127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise _elsewhere(address) from error
    if not ip.is_loopback:
        raise _elsewhere(address)
    return f"ipv{ip.version}:{f'[{ip}]' if ip.version == 6 else ip}:{port}"


def _elsewhere(address: str) -> InvalidInput:
    return InvalidInput(
        f"{address!r} is no loopback address", why="frames are for the agent on this device alone", hint=_HINT
    )
