"""A small file server that knows Range, and servers that do what a web server must not, all on real sockets."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from typing_extensions import override

Behave = Callable[[socket.socket, str], None]
"""Answers one request, whose head it is given."""


class HostileServer:
    """Answers every request as ``behave`` does; counts connections and requests, and keeps the heads."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests: list[str] = []
        self.connections = 0
        self.over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/files"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while head := read_head(sock):
                self.requests.append(head)
                self._behave(sock, head)

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


def read_head(sock: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)
        if not piece:
            return ""
        data += piece
    return data.decode()


def range_of(head: str) -> tuple[int, int]:
    found = re.search(r"Range: bytes=(\d+)-(\d+)", head)
    assert found, head
    return int(found[1]), int(found[2])


class RangeHandler(BaseHTTPRequestHandler):
    """Serves files of a folder by name, whole or in part, over connections that stay."""

    protocol_version = "HTTP/1.1"
    folder = Path()
    asked: list[tuple[str, str]] = []  # noqa: RUF012  (each server has a class of its own)

    def do_GET(self) -> None:
        path = self.folder / self.path.rpartition("/")[2]
        wanted = self.headers.get("Range", "")
        self.asked.append((path.name, wanted))
        if not path.is_file():
            self._answer(404, b"", "")
            return
        data, found = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        if not found:
            self._answer(200, data, "")
            return
        first, last = int(found[1]), min(int(found[2]), len(data) - 1)
        self._answer(206, data[first : last + 1], f"bytes {first}-{last}/{len(data)}")

    def _answer(self, status: int, body: bytes, content_range: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        return


class RangeServer:
    """A file server over one folder; ``asked`` has the name and the range of every request."""

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        handler = type("Handler", (RangeHandler,), {"folder": folder, "asked": self.asked})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._scheme = "https" if tls else "http"
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server.server_port}/bundles"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(10)


@contextmanager
def hostile(behave: Behave) -> Iterator[HostileServer]:
    server = HostileServer(behave)
    try:
        yield server
    finally:
        server.close()
