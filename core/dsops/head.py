"""What the timestamp of our repositories says beyond TUF: which roots there are, and when it was issued.

The timestamp is the head of the trust metadata: it fixes the snapshot by digest, the snapshot fixes every role, and the
roles fix the small targets. Only roots have no digest in TUF; the field below gives them one, as a hint where to find
them, for a root is believed by its signatures alone.
"""

from collections.abc import Mapping
from datetime import datetime

from dsops import strictjson
from dsops.errors import MalformedMetadata

ROOTS_FIELD = "dsops-roots"
"""Digests of the published roots, first to newest."""
ISSUED_FIELD = "dsops-issued"
"""When the timestamp was signed, RFC 3339 in UTC."""
MAX_HEAD_BYTES = 16 * 1024
MAX_ROOTS = 256
_DIGEST_CHARS = 64


def roots_named(head: bytes) -> tuple[str, ...]:
    """Return the digests of the roots that an unverified timestamp names, first to newest.

    Raises:
        MalformedMetadata: It cannot be parsed, or names none.
    """
    if len(head) > MAX_HEAD_BYTES:
        return ()  # refused by its length, when it is read
    named = _signed(head).get(ROOTS_FIELD)
    if not isinstance(named, list) or not 0 < len(named) <= MAX_ROOTS or not all(map(_is_digest, named)):
        raise MalformedMetadata("the head of the trust metadata names no roots", why=f"see its field {ROOTS_FIELD}")
    return tuple(named)


def expires(head: bytes) -> datetime:
    """Return after which moment an unverified timestamp must not be accepted any more.

    Raises:
        MalformedMetadata: It cannot be parsed, or does not say so in aware time.
    """
    moment = _moment(_signed(head).get("expires"))
    if moment is None:
        raise MalformedMetadata(
            "the head of the trust metadata does not say when it expires", why="see its field expires"
        )
    return moment


def issued(fields: Mapping[str, object]) -> datetime | None:
    """Return when a verified timestamp says that it was signed, from its fields that TUF does not know."""
    return _moment(fields.get(ISSUED_FIELD))


def _signed(head: bytes) -> Mapping[str, object]:
    try:
        document = strictjson.loads(head)
    except strictjson.JsonRefused as error:
        raise MalformedMetadata("the head of the trust metadata is not strict JSON", why=str(error)) from error
    signed = document.get("signed") if isinstance(document, dict) else None
    return signed if isinstance(signed, dict) else {}


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == _DIGEST_CHARS and all(char in "0123456789abcdef" for char in value)
