"""Errors as gRPC statuses: what a device is to do (again later, differently, not at all), with the error's own code."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn, TypeAlias

import grpc

from dsops.errors import (
    Conflict,
    DsopsError,
    EnrolmentFull,
    EnrolmentRefused,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Unauthorized,
)

logger = logging.getLogger(__name__)

CODE_KEY = "dsops-code"
"""Trailing metadata of every refusal: the error's code."""
PAUSE_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata of RESOURCE_EXHAUSTED when the same batch may be sent again after a pause (gRFC A6, pushback)."""
OVERLOAD_PAUSE_MS = 2000
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_STATUS: tuple[tuple[type[DsopsError], grpc.StatusCode], ...] = (
    (Unauthorized, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (EnrolmentFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (EnrolmentRefused, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (Conflict, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
)


@asynccontextmanager
async def refusing(context: Context) -> AsyncIterator[None]:
    """Turn an error into a status. Nothing that a device sends ends as UNKNOWN."""
    try:
        yield
    except DsopsError as error:
        await _refuse(context, error)
    except grpc.aio.AbortError:  # refused already, further in
        raise
    except Exception:
        logger.exception("a message from a device could not be handled")
        await context.abort(grpc.StatusCode.INTERNAL, "the store failed; its log says why")


async def _refuse(context: Context, error: DsopsError) -> NoReturn:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), grpc.StatusCode.UNAVAILABLE)
    if status is grpc.StatusCode.UNAVAILABLE:
        logger.warning("a message from a device was put off: %s", error)
    metadata = [(CODE_KEY, error.code)]
    if isinstance(error, Overloaded):
        pause_ms = int(error.details.get("pause_ms", OVERLOAD_PAUSE_MS))
        metadata.append((PAUSE_KEY, str(max(1, pause_ms))))  # gRPC's own clients hang on a push-back of 0
    await context.abort(status, str(error)[:1000], tuple(metadata))
