"""What every request passes before any route sees it: the token, and the limit on its length (ASGI 3.0)."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsops.bundle import sha256_hex
from dsops.errors import TooLarge, Unauthorized
from dsops_controller.server.rest.problems import answer

MAX_BUNDLE_BYTES = 64 * 1024 * 1024
MAX_BODY_BYTES = 1024 * 1024
MAX_LABEL_FILE_BYTES = 64 * 1024 * 1024
_LIMITS = {
    "/api/v1/bundles": MAX_BUNDLE_BYTES + MAX_BODY_BYTES,
    "/api/v1/devices/preauthorised": 4 * MAX_BODY_BYTES,
    "/api/v1/labels": MAX_LABEL_FILE_BYTES + MAX_BODY_BYTES,
}
_OPEN = frozenset({"/api/v1/health"})


@dataclass(frozen=True)
class Guard:
    """Refuses requests without the operator's token and bodies that are too long.

    Args:
        app: What is guarded.
        token_sha256: SHA-256 (hex) of the operator's token.
        readers: SHA-256 of tokens that open one path each, for reading.
    """

    app: ASGIApp
    token_sha256: str
    readers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), str(scope["path"])
        if path not in _OPEN and not self._may(headers.get("authorization", ""), scope["method"], path):
            await answer(Unauthorized("the request carries no valid token"))(scope, receive, send)
            return
        limit = body_limit(path)
        if _declared_length(headers) > limit:
            await answer(_too_large(limit))(scope, receive, send)
            return
        await self.app(scope, _counted(receive, limit), send)

    def _may(self, authorization: str, method: str, path: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        given = sha256_hex(token.strip().encode())
        is_operator = secrets.compare_digest(given, self.token_sha256)
        is_reader = method == "GET" and secrets.compare_digest(given, self.readers.get(path, ""))
        return scheme.lower() == "bearer" and (is_operator or is_reader)


def body_limit(path: str) -> int:
    """Return how many bytes a request to ``path`` may carry: a bundle with its role, a list of devices, or little."""
    return _LIMITS.get(path, MAX_BODY_BYTES)


def _declared_length(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isdecimal() else 0


def _counted(receive: Receive, limit: int) -> Receive:
    left = limit

    async def take() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_large(limit)
        return message

    return take


def _too_large(limit: int) -> TooLarge:
    return TooLarge("the request is too long", why=f"{limit} bytes are allowed")
