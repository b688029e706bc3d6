"""Lists of devices that may join by a key that is known beforehand, as a CSV file. Pure.

A line is a device's name and its key's fingerprint: the SHA-256 of the DER SubjectPublicKeyInfo.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from dsops.errors import DsopsError, InvalidInput
from dsops.ids import DeviceId, device_id, digest

MAX_LINES = 20_000
HEADER = ["device", "key_sha256"]
_SHOWN, _LONGEST = 10, 160


@dataclass(frozen=True)
class Line:
    """One device of a list: its name, and the SHA-256 (hex) of its key's DER SubjectPublicKeyInfo."""

    device: DeviceId
    key_sha256: str


def parse(text: str) -> tuple[Line, ...]:
    """Return the lines of a CSV file ``device,key_sha256``; a header, empty lines and ``#`` comments may stand in it.

    Raises:
        InvalidInput: Any line is wrong; the text names the first of them by number.
    """
    found: dict[str, Line] = {}
    problems: list[str] = []
    reader = csv.reader(io.StringIO(text))
    try:
        for cells in reader:
            words = [cell.strip() for cell in cells]
            if any(words) and not words[0].startswith("#") and words != HEADER:
                _take(words, reader.line_num, found, problems)
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: {error}")
    if problems:
        raise InvalidInput("the list is not valid, nothing of it was taken", why=joined(problems))
    if not 0 < len(found) <= MAX_LINES:
        raise InvalidInput("the list is empty or too long", why=f"{len(found)} devices, {MAX_LINES} are allowed")
    return tuple(found.values())


def joined(problems: Sequence[str]) -> str:
    """Return the first problems as one text, and how many more there are."""
    more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def _take(words: Sequence[str], number: int, found: dict[str, Line], problems: list[str]) -> None:
    try:
        line = _line(words)
        if line.device in found:
            raise InvalidInput(f"{line.device} comes twice")
        found[line.device] = line
    except DsopsError as error:
        problems.append(f"line {number}: {error.what[:_LONGEST]}")


def _line(words: Sequence[str]) -> Line:
    if len(words) != len(HEADER):
        raise InvalidInput(f"{len(words)} columns instead of device,key_sha256")
    return Line(device_id(words[0]), digest(words[1].lower().replace(":", "")))
