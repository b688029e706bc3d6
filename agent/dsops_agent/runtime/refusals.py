"""How an error is said over each transport: its status, and its text without a traceback."""

from http import HTTPStatus

import grpc

from dsops.call_status import CallStatus, status_of
from dsops.errors import DsopsError, Forbidden, TooLarge

_GRPC = {code.value[0]: code for code in grpc.StatusCode}
_HTTP = {
    CallStatus.CANCELLED: HTTPStatus.REQUEST_TIMEOUT,
    CallStatus.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    CallStatus.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    CallStatus.NOT_FOUND: HTTPStatus.NOT_FOUND,
    CallStatus.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    CallStatus.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    CallStatus.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    CallStatus.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
FAILED = "the runtime failed (see the agent's log)"
"""What a caller is told of an error that nobody thought of."""


def grpc_status(error: DsopsError) -> grpc.StatusCode:
    """Return the gRPC status of an error; INTERNAL for one that is no caller's."""
    return _GRPC[status_of(error)]


def http_status(error: DsopsError) -> HTTPStatus:
    """Return the HTTP status of an error; 500 for one that is no caller's."""
    if isinstance(error, TooLarge):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return _HTTP.get(status_of(error), HTTPStatus.INTERNAL_SERVER_ERROR)


def text_of(error: DsopsError) -> str:
    """Return an error as one line for the caller."""
    return f"{error} ({error.hint})" if error.hint else str(error)


def only_control(model: str) -> Forbidden:
    """Return the error for a caller who wants to load or unload a model."""
    return Forbidden(
        f"model {model[:64]!r} is not loaded or unloaded over this interface",
        why="only the agent changes models, by signed bundles",
        hint="roll a bundle out: dsops rollout create",
    )
