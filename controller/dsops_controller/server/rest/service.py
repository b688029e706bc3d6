"""Serves the REST interface over TLS from a thread of its own."""

import threading
import time
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from dsops.errors import DeviceError

START_S = 10.0
STOP_S = 3


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
        """Finish requests under way, at most a few seconds."""
        self._server.should_exit = True
        self._thread.join(STOP_S + 2)
