"""Serves the REST interface over TLS from a thread of its own."""

import threading
import time
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from dsops.errors import DeviceError

START_S = 10.0
STOP_S = 3
_TICK_S = 0.1


class RestService:
    """One uvicorn server; signals stay with the composition root."""

    def __init__(self, app: ASGIApp, host: str, port: int, certificate: Path, key: Path) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            ssl_certfile=str(certificate),
            ssl_keyfile=str(key),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            limit_concurrency=200,
            timeout_graceful_shutdown=STOP_S,
        )
        self._server = uvicorn.Server(config)
        # Only uvicorn's main thread may take signals, and this one is not it.
        self._thread = threading.Thread(target=self._server.run, name="rest", daemon=True)

    def start(self) -> None:
        """Start, and return when requests are answered.

        Raises:
            DeviceError: It did not start.
        """
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise DeviceError("the REST interface did not start", hint="see the server's log")
            time.sleep(0.02)

    def stop(self) -> None:
        """Take no more requests, and finish those under way, at most a few seconds."""
        self._server.should_exit = True
        time.sleep(2 * _TICK_S)  # by then uvicorn has closed what is idle
        deadline = time.monotonic() + STOP_S
        while self._server.server_state.tasks and time.monotonic() < deadline:
            time.sleep(_TICK_S / 5)
        # Idle connections wait for the peer's half of the TLS goodbye, which most clients never send.
        self._server.force_exit = True
        self._thread.join(STOP_S)
