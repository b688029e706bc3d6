"""The connections of REST: who may have one, and what is said on it before a request is answered.

waitress takes all connections in one thread, which must not wait. Who finds no place on its arrival is told so when it
asks, and what it sends is let go, so that a program that sends all of it first can read why.
"""

import select
import socket
import time
from functools import cached_property
from http import HTTPStatus
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import BaseWSGIServer
from waitress.task import ErrorTask, WSGITask

from dsops.errors import DsopsError, QueueFull
from dsops_agent.runtime.direct_server import BODY_S
from dsops_agent.runtime.rest import USER, refusal
from dsops_agent.runtime.rest_crowd import makes_way
from dsops_agent.runtime.rest_intake import Arriving, Told
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.sockets import peer_user
from dsops_agent.runtime.tcp_peers import TcpPeers

MOST_LEAVING = 8
"""Connections that found no place and are still there to be told so; they take none."""


def received_by(server: BaseWSGIServer, room: Room) -> None:
    """Let a server, before it runs, receive what asks it within the bounds of this module."""
    server.channel_class = _Reception(room).take


class _Refusing(ErrorTask):  # type: ignore[misc]
    """Says what a request is refused for, as everything else here does: as JSON."""

    def execute(self) -> None:
        error = self.request.error
        reply = refusal(HTTPStatus(error.code), error.body)
        self.status = f"{reply.status.value} {reply.status.phrase}"
        self.response_headers.extend(reply.headers)
        self.content_length = len(reply.body)
        if getattr(error, "is_last", False):
            self.response_headers.append(("Connection", "close"))
        if getattr(error, "closes", True):
            self.set_close_on_finish()
        self.write(b"" if self.request.command == "HEAD" else reply.body)


class _Answering(WSGITask):  # type: ignore[misc]
    """Hands a request over, with who asks."""

    def get_environment(self) -> dict[str, Any]:
        found: dict[str, Any] = super().get_environment()
        return {**found, USER: lambda: self.channel.user}


class _Connection(HTTPChannel):  # type: ignore[misc]
    """A connection of a program. Implements :class:`dsops_agent.runtime.rest_crowd.Guest`."""

    task_class, error_task_class = _Answering, _Refusing
    will_close: bool
    last_activity: float

    def __init__(
        self, room: Room, peers: TcpPeers, server: BaseWSGIServer, sock: socket.socket, *rest: object, **named: object
    ) -> None:
        self._peers, self._room = peers, room
        self._away: DsopsError | None = None
        self._away_until_s = 0.0
        self._was_told = False
        super().__init__(server, sock, *rest, **named)

    def parser_class(self, adj: object) -> Arriving:
        """Return what receives the next request."""
        return Arriving(self._room, lambda: self.user, self._away, adj)

    @property
    def rests_since_s(self) -> float | None:
        """Since when nothing is asked on it; None while something is."""
        if self.request is not None or self.requests or self.total_outbufs_len or self._has_more:
            return None
        return self.last_activity

    @property
    def _has_more(self) -> bool:
        """Whether something came that was not read yet."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing did, or whoever sent it is gone
            return False

    @property
    def is_leaving(self) -> bool:
        """Whether it takes no place any more."""
        return bool(self._away or self.will_close or self.close_when_flushed or self._is_left)

    @property
    def _is_left(self) -> bool:
        """Whether its program has closed it, though what it sent was not read to its end yet."""
        asked = select.poll()
        asked.register(self.socket, 0)
        return any(what & (select.POLLHUP | select.POLLERR) for _, what in asked.poll(0))

    def turn_away(self, problem: DsopsError) -> None:
        """Answer its first request with a refusal, and no more."""
        self._away, self._away_until_s = problem, time.monotonic() + BODY_S

    @cached_property
    def user(self) -> str:
        """Who is at its other end."""
        if self.socket.family == socket.AF_UNIX:
            return peer_user(self.socket)
        host, port, *_ = self.addr
        peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
        return self._peers.user_of(peer, int(self.server.effective_port))

    def received(self, data: bytes) -> bool:
        taken: bool = super().received(data)
        self._look()
        return taken

    def readable(self) -> bool:
        self._look()
        request = self.request
        return super().readable() and not (request is not None and request.waits)

    def handle_close(self) -> None:
        super().handle_close()
        if (request := self.request) is not None:
            request.close()

    def _look(self) -> None:
        """Tell who sends a request what there is to be told, or that its body may come."""
        with self.requests_lock:
            request, now_s = self.request, time.monotonic()
            if not self.connected or self.will_close or self.close_when_flushed:
                return
            if self._away and (now_s > self._away_until_s or (self._was_told and request is None)):
                self.will_close = not self.requests
            if request is None or self.will_close:
                return
            waited = request.waits
            if (told := request.look(now_s)) is not None:
                self._tell(request, told)
            elif request.is_stale(now_s):
                self.will_close = True
            elif waited and request.expect_continue and not self.requests and not self.sent_continue:
                self.send_continue()

    def _tell(self, request: Arriving, told: Told) -> None:
        answered = HTTPRequestParser(self.adj)
        answered.version, answered.headers, answered.error = request.version, request.headers, told
        answered.command = request.command
        self._was_told = True
        self.requests.append(answered)
        if len(self.requests) == 1:
            self.server.add_task(self)


class _Reception:
    """Takes connections, as long as there is a place for them.

    Args:
        room: What their requests take.
    """

    def __init__(self, room: Room) -> None:
        self._room, self._peers = room, TcpPeers()
        self._leaving: list[_Connection] = []

    def take(self, server: BaseWSGIServer, sock: socket.socket, *rest: object, **named: object) -> _Connection:
        """Take a connection; another one may have to go for it, or it is told that there is no place."""
        came = _Connection(self._room, self._peers, server, sock, *rest, **named)
        others = [one for one in server.active_channels.values() if one is not came and not one.is_leaving]
        try:
            goes = makes_way(came, others)
        except QueueFull as problem:
            self._turn_away(came, problem)
        else:
            if isinstance(goes, _Connection):
                goes.will_close = True
        return came

    def _turn_away(self, came: _Connection, problem: QueueFull) -> None:
        came.turn_away(problem)
        self._leaving = [one for one in self._leaving if one.connected] + [came]
        if len(self._leaving) > MOST_LEAVING:
            self._leaving[0].will_close = True
