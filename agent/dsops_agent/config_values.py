"""The kinds of values that the agent's configuration has, each checked where it is read."""

import pwd
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from dsops import ids
from dsops.errors import DsopsError
from dsops_agent.install.maintenance import parse

SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket on Linux (unix(7): ``sun_path`` has 108 bytes, one of them the end)."""
CHALLENGER_SOCKET = "i.sock"
"""The socket of a challenger's process, in a folder of its own below ``run``: short, so that it fits wherever the
one for programs does."""
CHALLENGER_NAME = 6
"""Characters of that folder's name where ``run`` leaves no room for more."""


DAY_S = 86_400
"""A wait of more than a day is a mistake, and far below what clocks and waits of the system can take."""


def _no_empty_path(value: object) -> object:
    if value == "":
        raise ValueError("it is empty; leave the key out")
    return value


def _against_file(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder", Path())
    return Path(folder) / path


def _zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name}; they are named as in Europe/Berlin") from error


def _window(text: str) -> str:
    try:
        parse(text)
    except DsopsError as error:
        raise ValueError(f"{error}; {error.hint}" if error.hint else str(error)) from error
    return text


def _device(name: str) -> str:
    try:
        return ids.device_id(name)
    except DsopsError as error:
        raise ValueError(error.why) from error


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("it is not host:port")
    return text


def _loopback(text: str) -> str:
    if not text:
        return text
    host = _address(text).rpartition(":")[0]
    try:
        is_loopback = ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ValueError("only programs on this device may ask: it is no loopback address as 127.0.0.1:8000")
    return text


def _loopback_or_socket(text: str, info: ValidationInfo) -> str:
    return str(_against_file(Path(text), info)) if "/" in text else _loopback(text)


def uid_of(user: str) -> int:
    """Return the number of a user; raise KeyError for one that this host does not know."""
    return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid


def _user(text: str) -> str:
    try:
        uid = uid_of(text)
    except KeyError as error:
        raise ValueError(f"there is no user {text} on this device") from error
    if not 0 <= uid < 0xFFFFFFFF:
        raise ValueError(f"{text} is no number of a user")
    return text


def _base_url(text: str) -> str:
    try:
        url = urlsplit(text)
        is_one = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL: {error}") from error
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(" @?#")
    if not is_one or not is_plain:
        raise ValueError(f"{text!r} is not https://host/path or http://host/path")
    return f"{url.scheme}://{url.netloc.lower()}{url.path.rstrip('/')}"


def _each_once(urls: tuple[str, ...]) -> tuple[str, ...]:
    twice = [url for number, url in enumerate(urls) if url in urls[:number]]
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    return urls


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


TimeZone = Annotated[str, AfterValidator(_zone)]
WindowText = Annotated[str, AfterValidator(_window)]
DeviceName = Annotated[str, AfterValidator(_device)]
User = Annotated[str, AfterValidator(_user)]
FilePath = Annotated[Path, BeforeValidator(_no_empty_path), AfterValidator(_against_file)]
Address = Annotated[str, AfterValidator(_address)]
Loopback = Annotated[str, AfterValidator(_loopback)]
LoopbackOrSocket = Annotated[str, AfterValidator(_loopback_or_socket)]
BaseUrls = Annotated[
    tuple[Annotated[str, AfterValidator(_base_url)], ...], BeforeValidator(_one_or_more), AfterValidator(_each_once)
]


class Section(BaseModel):
    """A table of the file: immutable, and an unknown key is an error, as is a number without end."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, allow_inf_nan=False)
