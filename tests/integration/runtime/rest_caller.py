"""Asks a REST service over a Unix socket, byte by byte as told."""

import http.client
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from dsops_agent.runtime.rest import RestService
from dsops_agent.runtime.rest_server import RestServer
from dsops_agent.runtime.sockets import Access


class UnixHttp(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class Caller:
    """A REST server on a socket, and who asks it."""

    def __init__(self, service: RestService, path: Path) -> None:
        self.path = path
        self._server = RestServer(service, str(path), Access())

    def __enter__(self) -> "Caller":
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(1.0)

    def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = UnixHttp(self.path)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        status, found, _ = self.send("POST", path, body)
        return status, json.loads(found)
