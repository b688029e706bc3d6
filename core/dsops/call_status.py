"""What an error of ours is called on the wire of an inference call, and back: gRPC's status numbers.

Every transport of the agent takes them from here: gRPC itself, the direct socket, which carries the numbers alone, and
REST by way of them.
"""

from enum import IntEnum

from dsops.errors import (
    Abandoned,
    Conflict,
    DsopsError,
    Forbidden,
    InvalidInput,
    NotFound,
    NotServing,
    QueueFull,
    RuntimeCrashed,
    TimedOut,
)


class CallStatus(IntEnum):
    """The numbers that are used here, as gRPC's documentation (statuscodes.md) has them."""

    OK = 0
    """There is an answer."""
    CANCELLED = 1
    """The caller went away."""
    INVALID_ARGUMENT = 3
    """The request can never be answered."""
    DEADLINE_EXCEEDED = 4
    """The caller's time passed."""
    NOT_FOUND = 5
    """There is no such model, release or region."""
    ALREADY_EXISTS = 6
    """The name is taken."""
    PERMISSION_DENIED = 7
    """The caller may not."""
    RESOURCE_EXHAUSTED = 8
    """Others ask for too much; the same request may be answered later."""
    UNIMPLEMENTED = 12
    """There is no such call."""
    INTERNAL = 13
    """The agent failed."""
    UNAVAILABLE = 14
    """Nobody answers at the moment; ask again."""


_STATUSES: dict[type[DsopsError], CallStatus] = {
    InvalidInput: CallStatus.INVALID_ARGUMENT,
    NotFound: CallStatus.NOT_FOUND,
    NotServing: CallStatus.UNAVAILABLE,
    Forbidden: CallStatus.PERMISSION_DENIED,
    Conflict: CallStatus.ALREADY_EXISTS,
    QueueFull: CallStatus.RESOURCE_EXHAUSTED,
    TimedOut: CallStatus.DEADLINE_EXCEEDED,
    Abandoned: CallStatus.CANCELLED,
}
_ERRORS: dict[int, type[DsopsError]] = {
    status: kind for kind, status in _STATUSES.items() if kind is not Abandoned
}  # who hears that a call was cancelled did not cancel it: the agent gave it up


def status_of(error: DsopsError) -> CallStatus:
    """Return the status of an error; INTERNAL for one that is no caller's."""
    for kind in type(error).__mro__:
        if kind in _STATUSES:
            return _STATUSES[kind]
    return CallStatus.INTERNAL


def error_of(status: int) -> type[DsopsError]:
    """Return what a status means to who asked; any that is not in the table is a failure of the agent."""
    return _ERRORS.get(status, RuntimeCrashed)
