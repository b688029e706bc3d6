"""Serves the REST application by waitress, on a loopback address or a Unix socket."""

import logging
import os
import threading
from pathlib import Path
from typing import Any

from waitress.server import BaseWSGIServer, create_server

from dsops.direct import MAX_BODY_BYTES
from dsops.errors import PortBusy
from dsops_agent.runtime.claim import own_file
from dsops_agent.runtime.dispatch import CAPACITY
from dsops_agent.runtime.rest import RestService
from dsops_agent.runtime.rest_connections import MOST_LEAVING, received_by
from dsops_agent.runtime.rest_crowd import PLACES
from dsops_agent.runtime.room import SMALL_BYTES, Room
from dsops_agent.runtime.sockets import Access, make_room

THREADS = CAPACITY
"""Requests at the same time. One that waits for its model holds a thread."""
_CONNECTIONS = PLACES + 2 * MOST_LEAVING
"""More than there are ever: where they are all taken, waitress takes no more, whoever it is that comes."""
_IDLE_S = 60
_END_S = 0.5
_HEAD_BYTES = 64 << 10
_ANY = 1 << 62
_LOOK_S = 0.2
"""How often is looked whether there is room for who waits, or somebody is late."""


class RestServer:
    """The REST server and its thread.

    Args:
        service: What it serves.
        where: A loopback address, host:port, or the path of a Unix socket.
        access: Who may connect to that socket.
        room: What the bodies of requests take, before they are received.

    Raises:
        InvalidConfig: The path cannot be a socket, or its file system keeps no access lists.
        PortBusy: Another process listens there.
    """

    def __init__(self, service: RestService, where: str, access: Access, room: Room | None = None) -> None:
        self._socket = Path(where) if "/" in where else None
        self._server = _listening(service, where, self._socket, access)
        received_by(self._server, room or Room())
        self._remove = own_file(self._socket) if self._socket else None
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, wait_s: float) -> None:
        """Take no more requests, and wait so long for those under way."""
        self.end()
        self.wait(wait_s)

    def end(self) -> None:
        """Begin no more requests."""
        self._server.task_dispatcher.set_thread_count(0)

    def wait(self, wait_s: float) -> None:
        """Wait so long for the requests under way, and close."""
        self._server.task_dispatcher.shutdown(timeout=wait_s)
        self._server.trigger.pull_trigger(self._server.close)  # in its own thread, which reads what is closed
        self._thread.join(_END_S)
        if self._remove:
            self._remove()

    def _run(self) -> None:
        self._server.run()


def _listening(service: RestService, where: str, path: Path | None, access: Access) -> BaseWSGIServer:
    options: dict[str, Any] = {"unix_socket": str(path)} if path else {"listen": where}
    if path:
        make_room(path)
        options["unix_socket_perms"] = f"{access.first_mode:o}"
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns of each request that waits
    before = os.umask(0o777 & ~access.first_mode)
    try:
        server = create_server(
            service,
            threads=THREADS,
            connection_limit=_CONNECTIONS,
            max_request_header_size=_HEAD_BYTES,
            max_request_body_size=_ANY,  # what comes of one that is refused for its length is counted, and let go
            recv_bytes=SMALL_BYTES,
            outbuf_overflow=MAX_BODY_BYTES + 1,  # else an answer goes through a file
            asyncore_loop_timeout=_LOOK_S,
            channel_timeout=_IDLE_S,
            channel_request_lookahead=1,  # tells of a caller that went away
            ident="dsops",
            **options,
        )
    except OSError as error:
        raise PortBusy(f"cannot listen on {where}", why=error.strerror or str(error)) from error
    finally:
        os.umask(before)
    if path:
        access.grant(path)
    return server
