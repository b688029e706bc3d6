"""How an error is said over each transport: its status, and its text without a traceback."""

from http import HTTPStatus

import grpc

from dsops.errors import (
    Abandoned,
    Conflict,
    DsopsError,
    Forbidden,
    InvalidInput,
    NotFound,
    NotServing,
    QueueFull,
    TimedOut,
    TooLarge,
)

_STATUSES: dict[type[DsopsError], tuple[grpc.StatusCode, HTTPStatus]] = {
    TooLarge: (grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    InvalidInput: (grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST),
    NotFound: (grpc.StatusCode.NOT_FOUND, HTTPStatus.NOT_FOUND),
    NotServing: (grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE),
    Forbidden: (grpc.StatusCode.PERMISSION_DENIED, HTTPStatus.FORBIDDEN),
    Conflict: (grpc.StatusCode.ALREADY_EXISTS, HTTPStatus.CONFLICT),
    QueueFull: (grpc.StatusCode.RESOURCE_EXHAUSTED, HTTPStatus.TOO_MANY_REQUESTS),
    TimedOut: (grpc.StatusCode.DEADLINE_EXCEEDED, HTTPStatus.GATEWAY_TIMEOUT),
    Abandoned: (grpc.StatusCode.CANCELLED, HTTPStatus.REQUEST_TIMEOUT),
}
FAILED = "the runtime failed (see the agent's log)"
"""What a caller is told of an error that nobody thought of."""
_INTERNAL = (grpc.StatusCode.INTERNAL, HTTPStatus.INTERNAL_SERVER_ERROR)


def grpc_status(error: DsopsError) -> grpc.StatusCode:
    """Return the gRPC status of an error; INTERNAL for one that is no caller's."""
    return _statuses(error)[0]


def http_status(error: DsopsError) -> HTTPStatus:
    """Return the HTTP status of an error; 500 for one that is no caller's."""
    return _statuses(error)[1]


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


def _statuses(error: DsopsError) -> tuple[grpc.StatusCode, HTTPStatus]:
    for kind in type(error).__mro__:
        if kind in _STATUSES:
            return _STATUSES[kind]
    return _INTERNAL
