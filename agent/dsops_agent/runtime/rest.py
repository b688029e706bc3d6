"""Answers programs on the device over HTTP: the REST form of the Open Inference Protocol, version 2, by WSGI.

Routes and bodies are those of the protocol and of Triton's extensions for the index of models, shared memory and
binary tensor data. An error is ``{"error": text}`` with a status that fits.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote

import dsops
from dsops.errors import DsopsError, Forbidden, InvalidInput, NotFound, NotServing
from dsops_agent.runtime import kpi_json, oip, oip_json, refusals
from dsops_agent.runtime.admission import Caller
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.kpis import Kpis
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.sent import SentInputs
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.tensors import sent_inputs, tensor_bytes, wanted_outputs

logger = logging.getLogger(__name__)

USER = "dsops.user"
"""In the WSGI environment: returns who asks."""
HEADER_LENGTH = "Inference-Header-Content-Length"
Environ: TypeAlias = Mapping[str, Any]
_StartResponse: TypeAlias = Callable[[str, list[tuple[str, str]]], object]
_MODEL = r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?"
_REGION = r"/v2/systemsharedmemory(/region/(?P<region>[^/]+))?"


@dataclass(frozen=True)
class Reply:
    """What is answered.

    Attributes:
        body: The body.
        json_size: Length of its JSON text, when raw bytes follow.
        status: The status.
        allowed: By which methods the path is asked, where that was not one of them (RFC 9110, section 15.5.6).
    """

    body: bytes = b""
    json_size: int | None = None
    status: HTTPStatus = HTTPStatus.OK
    allowed: tuple[str, ...] = ()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers."""
        kind = "application/json" if self.json_size is None else "application/octet-stream"
        found = [("Content-Type", kind), ("Content-Length", str(len(self.body)))]
        if self.json_size is not None:
            found.append((HEADER_LENGTH, str(self.json_size)))
        return [*found, ("Allow", ", ".join(self.allowed))] if self.allowed else found


@dataclass(frozen=True)
class Call:
    """A request: names in its path, and its WSGI environment."""

    names: Mapping[str, str]
    environ: Environ

    def body(self) -> bytes:
        """Return its body.

        Raises:
            InvalidInput: It is compressed.
        """
        if self.environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
            raise InvalidInput("a compressed body is not taken", hint="send it as it is: it stays on this device")
        found: bytes = self.environ["wsgi.input"].read(int(self.environ.get("CONTENT_LENGTH") or 0))
        return found

    def json_size(self) -> int | None:
        """Return how long the JSON text of its body is, when it tells.

        Raises:
            InvalidInput: What it tells is no number.
        """
        told = self.environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH")
        if told is None:
            return None
        if not re.fullmatch(r"[0-9]{1,12}", told):
            raise InvalidInput(f"{HEADER_LENGTH} is no number", why=f"got {told[:32]!r}")
        return int(told)

    def user(self) -> str:
        """Return who asks."""
        found: str = self.environ[USER]()
        return found

    def caller(self, timeout_us: object) -> Caller:
        """Return who waits for the answer."""
        is_gone = self.environ.get("waitress.client_disconnected", bool)
        return Caller(time.monotonic() + oip.timeout_s(timeout_us), is_gone)


class RestService:
    """The WSGI application."""

    def __init__(
        self, dispatcher: Dispatcher, regions: Regions, room: Room | None = None, kpis: Kpis | None = None
    ) -> None:
        self._kpis = kpis
        self._room = room or Room()
        self._dispatcher = dispatcher
        self._regions = regions
        routes: list[tuple[str, str, Callable[[Call], Reply]]] = [
            ("GET", "/v2/health/live", lambda _: Reply()),
            ("GET", "/v2/health/ready", self._server_ready),
            ("GET", "/v2", self._server),
            ("GET", f"{_MODEL}/ready", self._model_ready),
            ("GET", _MODEL, self._model),
            ("POST", f"{_MODEL}/infer", self._infer),
            ("POST", "/v2/repository/index", self._index),
            ("POST", "/v2/repository/models/(?P<model>[^/]+)/(un)?load", self._refuse),
            ("GET", f"{_REGION}/status", self._status),
            ("POST", f"{_REGION}/register", self._register),
            ("POST", f"{_REGION}/unregister", self._unregister),
            *([("POST", "/v2/dsops/kpis", self._kpi)] if kpis else []),
        ]
        self._routes = [(method, re.compile(path), answer) for method, path, answer in routes]

    def __call__(self, environ: Environ, start_response: _StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            reply = self._answer(environ)
        except DsopsError as error:
            reply = refusal(refusals.http_status(error), refusals.text_of(error))
        except Exception:  # the border to a caller: it gets a status, the log the traceback
            logger.exception("a request failed")
            reply = refusal(HTTPStatus.INTERNAL_SERVER_ERROR, refusals.FAILED)
        start_response(f"{reply.status.value} {reply.status.phrase}", reply.headers)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [reply.body]

    def _answer(self, environ: Environ) -> Reply:
        if "HTTP_ORIGIN" in environ:  # a page of any site could else use the device's browser to ask
            raise Forbidden("pages in a browser may not ask for inference")
        path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace").rstrip("/")
        asked = environ.get("REQUEST_METHOD", "")
        method = "GET" if asked == "HEAD" else asked  # the same answer, less its body (RFC 9110)
        others: list[str] = []
        for wanted, pattern, answer in self._routes:
            found = pattern.fullmatch(path)
            if found and wanted == method:
                names = {name: unquote(text) for name, text in found.groupdict().items() if text is not None}
                return answer(Call(names, environ))
            if found:
                others.append(wanted)
        if others:
            text = f"{path[:128]} is asked with {others[0]}"
            return replace(refusal(HTTPStatus.METHOD_NOT_ALLOWED, text), allowed=_methods(others))
        raise NotFound(f"there is nothing at {path[:128] or '/'}", hint="the interface begins at /v2")

    def _server_ready(self, call: Call) -> Reply:
        return Reply() if self._dispatcher.names() else refusal(HTTPStatus.SERVICE_UNAVAILABLE, "no model is active")

    def _server(self, call: Call) -> Reply:
        told = {"name": "dsops", "version": dsops.__version__, "extensions": list(oip.EXTENSIONS)}
        return Reply(oip_json.written(told))

    def _model_ready(self, call: Call) -> Reply:
        try:
            self._dispatcher.check(call.names["model"], call.names.get("version", ""))
        except (NotFound, NotServing) as error:
            return refusal(HTTPStatus.NOT_FOUND, refusals.text_of(error))
        return Reply()

    def _model(self, call: Call) -> Reply:
        return Reply(oip_json.written(oip_json.describe(self._found(call))))

    def _found(self, call: Call) -> ServedModel:
        return self._dispatcher.find(call.names["model"], call.names.get("version", "")).model

    def _infer(self, call: Call) -> Reply:
        request = oip_json.read_request(call.body(), call.json_size())

        def decode(served: ServedModel) -> SentInputs:
            wanted_outputs(request.asked, served)  # a name that there is not must not cost an inference
            return sent_inputs(request.given, served, self._regions)

        with self._room.held(tensor_bytes(request.given), call.user()):
            answered = self._dispatcher.infer(
                call.names["model"],
                call.names.get("version", ""),
                request.id,
                decode,
                key=request.key,
                caller=call.caller(request.timeout_us),
            )
            return Reply(*oip_json.write_answer(request, answered.served, answered.answer, self._regions))

    def _index(self, call: Call) -> Reply:
        models = [
            {"name": served.name, "version": str(served.release), "state": "READY", "reason": ""}
            for served in self._dispatcher.models()
        ]
        return Reply(oip_json.written(models))

    def _refuse(self, call: Call) -> Reply:
        raise refusals.only_control(call.names["model"])

    def _status(self, call: Call) -> Reply:
        shown = [
            {"name": region.name, "key": region.key, "offset": region.offset, "byte_size": region.size}
            for region in self._regions.status(call.names.get("region", ""))
        ]
        return Reply(oip_json.written(shown))

    def _register(self, call: Call) -> Reply:
        told = oip_json.read_object(call.body())
        key, offset, size = told.get("key"), told.get("offset", 0), told.get("byte_size")
        if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
            raise InvalidInput("a region has a key (text), an offset and a byte_size (numbers)")
        self._regions.register(call.names.get("region", ""), key, offset, size)
        return Reply()

    def _unregister(self, call: Call) -> Reply:
        self._regions.unregister(call.names.get("region", ""))
        return Reply()

    def _kpi(self, call: Call) -> Reply:
        assert self._kpis is not None
        self._kpis.report(kpi_json.read(oip_json.read_object(call.body())))
        return Reply(oip_json.written({}))


def _methods(wanted: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in wanted for name in ((one, "HEAD") if one == "GET" else (one,))))


def refusal(status: HTTPStatus, text: str) -> Reply:
    """Return an error for a caller."""
    return Reply(oip_json.written({"error": text}), status=status)
