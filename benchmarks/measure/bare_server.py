"""The least that another process costs: a plain Unix socket, shared memory, the interpreter, and nothing else.

One process, one thread, one loop: whoever has written a frame into its shared memory says so with a byte and gets the
scores. Nobody is refused, nothing is checked, counted or watched. It shows what two processes cost on this machine,
caches and wake-ups included, before a server has done any work of its own.

``python -m measure.bare_server SOCKET MODEL`` serves until the end of its input.
"""

import mmap
import secrets
import selectors
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from measure.asking import Ask, Floats, Frames, Loop
from measure.child import wait_for_end_of_input

_GO = b"\1"
_SHM = Path("/dev", "shm")
_MOST_BYTES = 1 << 16
"""Of an answer."""


class _Caller:
    """One connection, and the frame that its caller shares."""

    def __init__(self, connection: socket.socket, loop: Loop) -> None:
        self._connection = connection
        with (_SHM / connection.recv(64).decode()).open("r+b") as file:
            self._frame = np.frombuffer(mmap.mmap(file.fileno(), 0), loop.dtype, loop.size).reshape(loop.shape)
        connection.send(_GO)

    def answer(self, loop: Loop) -> bool:
        """Answer a request; say whether the caller is still there."""
        if not self._connection.recv(1):
            return False
        self._connection.send(loop(self._frame).tobytes())
        return True


def serve(path: Path, model: Path) -> None:
    """Answer whoever connects, one after the other."""
    loop, waiting = Loop(model), selectors.EpollSelector()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(16)
    waiting.register(listener, selectors.EVENT_READ)
    threading.Thread(target=_answer, args=(loop, listener, waiting), daemon=True).start()
    wait_for_end_of_input()


def _answer(loop: Loop, listener: socket.socket, waiting: selectors.BaseSelector) -> None:
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                connection, _ = listener.accept()
                waiting.register(connection, selectors.EVENT_READ, _Caller(connection, loop))
            elif not key.data.answer(loop):
                waiting.unregister(key.fileobj)


@contextmanager
def bare(path: str, model: str, output: str, most_bytes: int) -> Iterator[Ask]:
    """Ask the bare server, frame by frame."""
    file = _SHM / f"dsops-bare-{secrets.token_hex(4)}"
    try:
        with file.open("w+b") as made, socket.socket(socket.AF_UNIX) as connection:
            made.truncate(most_bytes)
            area = np.frombuffer(mmap.mmap(made.fileno(), most_bytes), np.uint8)
            connection.connect(path)
            connection.send(file.name.encode())
            connection.recv(1)

            def ask_one(frame: Frames) -> Floats:
                area[: frame.nbytes] = frame.reshape(-1).view(np.uint8)
                connection.send(_GO)
                return np.frombuffer(connection.recv(_MOST_BYTES), np.float32)[None]

            yield lambda frames: np.concatenate([ask_one(frame) for frame in frames])
    finally:
        file.unlink()


@contextmanager
def alone(payload: str, model: str, output: str, most_bytes: int) -> Iterator[Ask]:
    """Ask no server: every caller has the interpreter itself. What callers on so many cores have at most."""
    yield Loop(Path(payload))


LIMITS = {"bare": bare, "alone": alone}
"""Further ways to ask, as :data:`measure.asking.WAYS`."""


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
