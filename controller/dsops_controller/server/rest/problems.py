"""Errors as HTTP answers: the error's own JSON form, and a status that follows from its class."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dsops.errors import (
    BundleError,
    Conflict,
    DsopsError,
    InvalidInput,
    NotFound,
    RequestError,
    TooLarge,
    Unauthorized,
)

log = logging.getLogger(__name__)


_STATUS: tuple[tuple[type[DsopsError], int], ...] = (
    (Unauthorized, 401),
    (NotFound, 404),
    (Conflict, 409),
    (TooLarge, 413),
    (BundleError, 422),
    (RequestError, 422),
)


def status_of(error: DsopsError) -> int:
    """Return the HTTP status of an error; 500 when it is not the caller's or the artifact's fault."""
    return next((status for cls, status in _STATUS if isinstance(error, cls)), 500)


def answer(error: DsopsError) -> JSONResponse:
    """Return an error as a response."""
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(error.as_dict(), status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Have ``app`` answer every failure in the one form."""
    app.add_exception_handler(DsopsError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _expected(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DsopsError)
    if status_of(error) == 500:
        log.error("a request failed: %s", error)
    return answer(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    # The first part says where the value came from (body, path, query).
    field = ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0])
    return answer(InvalidInput(f"{field} is not valid", why=str(problem["msg"]), field=field))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return answer(NotFound(f"there is no {request.url.path}", hint="see /api/v1/openapi.json"))
    problem = InvalidInput(f"{request.method} {request.url.path} is not possible", why=str(error.detail))
    return JSONResponse(problem.as_dict(), status_code=error.status_code, headers=error.headers)


async def _unexpected(request: Request, _error: Exception) -> JSONResponse:
    # Starlette raises the error again after this answer, and the server logs it with its traceback.
    problem = DsopsError(f"{request.method} {request.url.path} failed", hint="see the server's log")
    return JSONResponse(problem.as_dict(), status_code=500)
