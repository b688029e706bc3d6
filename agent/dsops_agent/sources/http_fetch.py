"""One connection to an HTTP server, kept alive: asks for parts of files and hands their chunks over as they come.

Only what is needed of HTTP/1.1 is used, over a socket of our own: nothing is redirected, decompressed, cached, sent
through a proxy or tried again behind our back, and every byte goes through the meter.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast
from urllib.parse import quote, urlsplit

from dsops.chunks import MAX_CHUNK_BYTES
from dsops.errors import SourceEndless, SourceFailed, SourceRefused, SourceTruncated, SourceUnreachable
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.http_answer import Part, check_answer
from dsops_agent.sources.http_meter import Limits, Meter, MeteredSocket

Take = Callable[[Chunk, bytes], None]


class HttpFetcher:
    """Fetches from one base URL. For one thread; :meth:`stop` may be called from any.

    Args:
        base: ``https://host/path`` or ``http://host/path``; a file is below it by its SHA-256.
        tls: Returns the context of a connection.
        limits: How patient to be.
        receiving: Called whenever bytes come.
    """

    def __init__(
        self, base: str, tls: Callable[[], ssl.SSLContext], limits: Limits, receiving: Callable[[], None]
    ) -> None:
        url = urlsplit(base)
        self._is_tls = url.scheme == "https"
        self._host, self._port = url.hostname or "", url.port or (443 if self._is_tls else 80)
        self._netloc = url.netloc
        self._path = quote(url.path.rstrip("/"), safe="/%")
        self._tls = tls
        self._limits = limits
        self._receiving = receiving
        self._sock: socket.socket | None = None
        self._meter = Meter(limits, time.monotonic)
        self._before_bytes = 0

    @property
    def read_bytes(self) -> int:
        """Bytes that were read so far, headers and framing included."""
        return self._before_bytes + self._meter.read_bytes

    def stop(self) -> None:
        """End the request that is under way, if there is one, soon."""
        self._meter.stop()

    def prepare(self) -> None:
        """Begin a request, so that :meth:`stop` counts for it."""
        self._before_bytes += self._meter.read_bytes
        self._meter = Meter(self._limits, time.monotonic)

    def fetch(self, part: Part, take: Take) -> None:
        """Ask for a part, after :meth:`prepare`; hand over each chunk once all of its bytes are there, unchecked.

        Raises:
            SourceFailed: The server does not bring it; each way has a class of its own.
            Stopped: By :meth:`stop`.
        """
        is_new = self._sock is None
        try:
            self._attempt(part, take)
        except _Idle:
            if is_new:
                raise
            self._attempt(part, take)  # the server ended a connection that was not used for a while

    def close(self) -> None:
        """Close the connection."""
        if self._sock:
            with suppress(OSError):
                self._sock.close()
        self._sock = None

    def _attempt(self, part: Part, take: Take) -> None:
        is_good = False
        try:
            response = self._answer(part)
            self._body(part, response, take)
            is_good = not response.will_close
        finally:
            if not is_good:
                self.close()

    def _answer(self, part: Part) -> "http.client.HTTPResponse":
        """Send the request and read the header of the answer."""
        sock = self._sock = self._sock or self._connect()
        lines = [f"GET {self._path}/{part.file} HTTP/1.1", f"Host: {self._netloc}", "User-Agent: dsops-agent"]
        lines += ["Accept-Encoding: identity", *([] if part.whole else [f"Range: {part.range}"])]
        try:
            sock.settimeout(self._limits.connect_s)
            sock.sendall("\r\n".join((*lines, "", "")).encode("ascii"))
            metered = MeteredSocket(sock, self._meter, self._receiving)
            response = http.client.HTTPResponse(cast(socket.socket, metered), method="GET")
            response.begin()
        except (ConnectionError, http.client.RemoteDisconnected) as error:
            raise _Idle("the server ended the connection", why=str(error)) from error
        except http.client.HTTPException as error:
            raise SourceRefused("the server does not speak HTTP", why=repr(error)[:200]) from error
        except OSError as error:
            raise SourceUnreachable("the server does not answer", why=str(error)) from error
        return response

    def _connect(self) -> socket.socket:
        sock = None
        try:
            sock = socket.create_connection((self._host, self._port), timeout=self._limits.connect_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._tls().wrap_socket(sock, server_hostname=self._host) if self._is_tls else sock
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; ValueError: host names that are none
            if sock:
                sock.close()
            raise SourceUnreachable(f"{self._netloc} cannot be reached", why=str(error)) from error

    def _body(self, part: Part, response: "http.client.HTTPResponse", take: Take) -> None:
        headers = {name.lower(): value for name, value in response.getheaders()}
        length = check_answer(part, response.status, headers, MAX_CHUNK_BYTES)
        self._meter.body(part.length or MAX_CHUNK_BYTES)
        try:
            if part.whole:
                take(part.chunks[0], _whole(response, length))
                return
            for chunk in part.chunks:
                take(chunk, _exactly(response, chunk.length))
            _check_end(response)
        except (OSError, http.client.HTTPException) as error:
            raise SourceTruncated("the server broke off", why=str(error)[:200]) from error


class _Idle(SourceUnreachable):
    """The connection ended before an answer came."""


def _exactly(response: "http.client.HTTPResponse", length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = response.read(length - len(data))
        if not piece:
            raise SourceTruncated("the server sends less than was asked for", why=f"{len(data)} of {length} bytes")
        data += piece
    return bytes(data)


def _whole(response: "http.client.HTTPResponse", length: int | None) -> bytes:
    if length is not None:
        return _exactly(response, length)
    data = bytearray()
    while piece := response.read(MAX_CHUNK_BYTES + 1 - len(data)):
        data += piece
        if len(data) > MAX_CHUNK_BYTES:
            raise _endless()
    return bytes(data)


def _check_end(response: "http.client.HTTPResponse") -> None:
    if response.read(1):
        raise _endless()


def _endless() -> SourceFailed:
    return SourceEndless("the server sends more than was asked for", why="the body does not end")
