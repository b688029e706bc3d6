"""What an HTTP server's answer to a request for a file, or for a part of one, has to be. Pure.

Source: RFC 9110 (2022), sections 14.4 (Content-Range), 15.3.7 (206), 15.4 (redirection), 15.5.5 (404), 15.5.17 (416).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dsops.errors import (
    SourceEndless,
    SourceFailed,
    SourceIgnoresRange,
    SourceLacks,
    SourceRefused,
    SourceTruncated,
)
from dsops_agent.install.ports import Chunk

MOST_RANGE_BYTES = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)")
_GONE = (404, 410)


@dataclass(frozen=True)
class Part:
    """Chunks that adjoin, of one file; ``whole`` when the one chunk is the file itself, of unknown length."""

    file: str
    chunks: tuple[Chunk, ...]
    whole: bool = False

    @property
    def start(self) -> int:
        """Offset of the first byte."""
        return self.chunks[0].offset

    @property
    def length(self) -> int:
        """Number of bytes; 0 when it is not known."""
        return sum(chunk.length for chunk in self.chunks)

    @property
    def range(self) -> str:
        """The header ``Range``; empty for a whole file."""
        return "" if self.whole else f"bytes={self.start}-{self.start + self.length - 1}"


def next_part(wanted: Mapping[str, Chunk]) -> Part:
    """Return the request for what was asked for first, and for what follows it in the same file.

    Args:
        wanted: At least one chunk, by digest, in the order in which they were asked for.
    """
    first = next(iter(wanted.values()))
    if not first.file or not first.length:
        return Part(first.file or first.digest, (first,), whole=True)
    at = {chunk.offset: chunk for chunk in wanted.values() if chunk.file == first.file and chunk.length}
    chunks, end = [first], first.offset + first.length
    while (follower := at.get(end)) and end + follower.length - first.offset <= MOST_RANGE_BYTES:
        chunks.append(follower)
        end += follower.length
    return Part(first.file, tuple(chunks))


def check_answer(part: Part, status: int, headers: Mapping[str, str], most_bytes: int) -> int | None:
    """Return the length of the body, or None when the server does not say it, before a byte of the body is taken.

    Args:
        part: What was asked for.
        status: The status code.
        headers: The header, by lower-case name.
        most_bytes: Longest file that may be asked whole.

    Raises:
        SourceFailed: It is not what was asked for; each way has a class of its own.
    """
    refusal = _refusal(part, status, headers)
    if refusal:
        raise refusal
    length = _length(headers)
    if not part.whole:
        _check_range(part, headers)
        if length is not None and length < part.length:
            raise SourceTruncated("the server sends less than was asked for", why=f"{length} of {part.length} bytes")
    most = part.length or most_bytes
    if length is not None and length > most:
        raise SourceEndless("the server sends more than was asked for", why=f"{length} bytes, not {most}")
    return length


def _refusal(part: Part, status: int, headers: Mapping[str, str]) -> SourceFailed | None:
    why = f"HTTP status {status}"
    if status in _GONE:
        return SourceLacks("the server does not have the file", why=f"{why} for {part.file}")
    if status == 416:
        return SourceTruncated("the file is shorter on the server", why=why)
    if status == 200 and not part.whole:
        return SourceIgnoresRange("the server sends the whole file", why=f"{why} for a part, not 206")
    if status != (200 if part.whole else 206):
        where = headers.get("location", "")[:200]
        elsewhere = f"; it sends us to {where}, which is not followed" if where else ""
        return SourceRefused("the server refuses", why=why + elsewhere)
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        return SourceRefused("the server sends the file in another form", why=f"Content-Encoding {encoding[:80]}")
    return None


def _check_range(part: Part, headers: Mapping[str, str]) -> None:
    said = headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(said)
    if found is None or (int(found[1]), int(found[2])) != (part.start, part.start + part.length - 1):
        why = f"Content-Range {said[:80]!r}, asked for {part.range}"
        raise SourceIgnoresRange("the server sends another part than was asked for", why=why)


def _length(headers: Mapping[str, str]) -> int | None:
    said = headers.get("content-length", "")
    return int(said) if said.isdecimal() and len(said) < 19 and "transfer-encoding" not in headers else None
