"""JSON as it is signed and stored: one text for one value, and no surprises when it is read.

Reading refuses what :mod:`json` lets through and what two readers could understand differently: duplicate keys, ``NaN``
and infinities, and nesting deeper than a limit (RFC 8259 section 4 and 6 leave these open).
"""

import json
from typing import Any, NoReturn

MAX_DEPTH = 32


class JsonRefused(ValueError):
    """The text is not JSON of the strict form."""


def _refuse_constant(text: str) -> NoReturn:
    raise JsonRefused(f"{text} is not a number")


def _parse_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise JsonRefused(f"number {text[:40]} is out of range")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise JsonRefused("an object repeats a key")
    return found


def _check_depth(text: str) -> None:
    depth = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JsonRefused(f"nested deeper than {MAX_DEPTH}")
        elif char in "]}":
            depth -= 1


def loads(data: bytes) -> object:
    """Parse UTF-8 JSON strictly.

    Raises:
        JsonRefused: It is not UTF-8, not JSON, repeats a key, nests too deep or holds a number outside binary64.
    """
    try:
        text = data.decode("utf-8")
        _check_depth(text)
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_parse_float)
    except JsonRefused:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonRefused(str(error)) from error


def dumps(value: object) -> bytes:
    """Return the one canonical text of ``value``: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
