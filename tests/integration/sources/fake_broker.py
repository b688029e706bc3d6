"""A broker that misbehaves: a socket that says what a test wants it to say."""

import socket
import threading
from collections.abc import Callable


def accept(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK, MQTT 5.0 3.2


class FakeBroker:
    """A broker that does one thing to everyone who connects."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._behave = behave
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                self._behave(sock)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()
