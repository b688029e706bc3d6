"""Reads the messages of callers, and only those that cost little to read. Pure.

To read a message holds Python's lock: nobody else is answered meanwhile. 32 MiB of raw contents are read in 16 ms,
because they are copied; the same of typed integers takes 1.4 s and 470 MiB, of empty fields 4.5 s and 1.2 GiB. So what
is not raw may be long enough for many thousand typed values, and for 50 ms, and no longer. The fields are looked
through as they lie in the message (Protocol Buffers, "Encoding"), which takes microseconds. Of JSON, numbers cost
little and empty objects much: 4 MiB of these take ten times as long as of those, and 100 MB.
"""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from dsops.errors import InvalidInput, TooLarge

PLAIN_BYTES = 1 << 20
"""What a message has beside raw contents, at most."""
JSON_BYTES = 4 << 20
"""JSON of a request, at most: a picture of 224 x 224 x 3 in numbers of seventeen digits has 3 MB."""
MOST_PARTS = 100_000
"""Lists, objects and texts in it, at most; the rows and pixels of that picture as nested lists are 50,000 lists."""
MOST_FIELDS = 512
"""Inputs, outputs, parameters and raw contents together."""
_UNREAD_BYTES = 64 << 10
"""Shorter messages take a few milliseconds, whatever they hold."""
_RAW = 7 << 3 | 2
"""Number and type of ``raw_input_contents`` in ``ModelInferRequest``."""
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT = 10
Request = TypeVar("Request", bound=Message)


def parsed(kind: type[Request], name: str, body: bytes) -> Request:
    """Return the request of a call that a body holds.

    Raises:
        TooLarge: It would take long to read.
        InvalidInput: It cannot be read.
    """
    try:
        if len(body) > _UNREAD_BYTES:
            _check_cost(body)
        return kind.FromString(body)
    except (DecodeError, IndexError) as error:
        raise InvalidInput(f"the request of {name} cannot be read", why=str(error)) from error


def check_json(text: bytes) -> None:
    """Check that a JSON text costs little to read.

    Raises:
        TooLarge: It has too many parts.
    """
    if sum(map(text.count, (b"{", b"[", b'"'))) > MOST_PARTS:
        raise TooLarge(
            f"JSON of a request has up to {MOST_PARTS} lists, objects and marks of texts",
            hint="send tensors as flat lists of numbers, as binary data or in shared memory",
        )


def _check_cost(body: bytes) -> None:
    at = fields = plain = 0
    while at < len(body):
        began, fields = at, fields + 1
        key, at = _varint(body, at)
        at = _end_of(key & 7, body, at)
        plain += 0 if key == _RAW else at - began
        if fields > MOST_FIELDS or plain > PLAIN_BYTES:
            raise TooLarge(
                f"a request has up to {PLAIN_BYTES} bytes beside raw contents, in up to {MOST_FIELDS} fields",
                hint="send tensors in raw_input_contents or in shared memory, and fewer frames in a request",
            )


def _end_of(wire_type: int, body: bytes, at: int) -> int:
    """Return where a field ends whose value begins at ``at``."""
    if wire_type == _DELIMITED:
        length, at = _varint(body, at)
        return at + length
    if wire_type == _VARINT:
        return _varint(body, at)[1]
    if wire_type in (_FIXED32, _FIXED64):
        return at + (4 if wire_type == _FIXED32 else 8)
    raise DecodeError(f"type {wire_type} of a field")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    found = 0
    for place in range(_MOST_VARINT):
        byte = body[at + place]
        found |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return found, at + place + 1
    raise DecodeError("a number is too long")
