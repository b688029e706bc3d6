"""Times and spans as people write them: ``15m``, ``2h``, ``7d``, or a moment such as ``2026-11-01T10:00:00Z``."""

import re
from datetime import UTC, datetime, timedelta

from dsops.errors import InvalidInput

_SPAN = re.compile(r"^(\d{1,9})(s|m|h|d)$")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
MOST = timedelta(days=3660)


def span(text: str) -> timedelta:
    """Return a span of time.

    Raises:
        InvalidInput: It is none, or longer than ten years.
    """
    found = _SPAN.match(text)
    made = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    if made is None or not timedelta(0) < made <= MOST:
        raise InvalidInput(f"{text[:40]!r} is no span of time", hint="write for example 15m, 2h or 7d")
    return made


def moment(text: str | None) -> str | None:
    """Return a moment as the controller takes it; a span means so long ago, and None stays None.

    Raises:
        InvalidInput: It is neither.
    """
    if text is None:
        return None
    if _SPAN.match(text):
        return (datetime.now(UTC) - span(text)).isoformat()
    try:
        made = datetime.fromisoformat(text)
    except ValueError as error:
        hint = "write for example 2026-11-01T10:00:00Z, or 2h for two hours ago"
        raise InvalidInput(f"{text[:40]!r} is no time", hint=hint) from error
    return (made if made.tzinfo else made.replace(tzinfo=UTC)).isoformat()
