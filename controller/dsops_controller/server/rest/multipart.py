"""The one form of upload: ``multipart/form-data`` (RFC 7578) whose parts are whole values in memory."""

import re
from email.message import Message
from email.parser import BytesHeaderParser

from dsops.errors import InvalidInput

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 section 5.1.1
_MAX_HEAD_BYTES = 4096
_MAX_PARTS = 8


def parse(content_type: str, body: bytes) -> dict[str, bytes]:
    """Return the parts by name.

    Raises:
        InvalidInput: It is no such form, is cut short, or names a part twice.
    """
    delimiter = b"\r\n--" + _boundary(content_type)
    parts: dict[str, bytes] = {}
    # The first delimiter has no line before it; with one put there, all delimiters are alike.
    pieces = (b"\r\n" + body).split(delimiter, _MAX_PARTS + 1)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise _refused("it is cut short, or has too many parts")
    for piece in pieces[1:-1]:
        name, value = _part(piece)
        if name in parts:
            raise _refused(f"part {name!r} comes twice")
        parts[name] = value
    return parts


def _boundary(content_type: str) -> bytes:
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary or not _BOUNDARY.fullmatch(boundary):
        raise _refused("its content type is not multipart/form-data with a boundary")
    return boundary.encode("ascii")


def _part(piece: bytes) -> tuple[str, bytes]:
    head, found, value = piece.partition(b"\r\n\r\n")
    if not found or len(head) > _MAX_HEAD_BYTES:
        raise _refused("a part has no header")
    name = BytesHeaderParser().parsebytes(head.lstrip()).get_param("name", header="content-disposition")
    if not isinstance(name, str) or not name:
        raise _refused("a part has no name")
    return name, value


def _refused(why: str) -> InvalidInput:
    return InvalidInput("the upload is not a form of parts", why=why, hint="send multipart/form-data")
