"""Calls an MLflow server over REST: bounded answers, and errors that say what to do.

The interface is documented at https://mlflow.org/docs/latest/rest-api.html; artifacts come through the server's proxy
(``mlflow server --serve-artifacts``, the default). The settings are MLflow's own environment variables.
"""

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from dsops.errors import (
    DsopsError,
    Forbidden,
    InvalidConfig,
    InvalidInput,
    NotFound,
    ServerUnreachable,
    TransportError,
    Unauthorized,
)

Row = dict[str, Any]

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
TIMEOUT_S = 30.0
MAX_ANSWER_BYTES = 4 << 20
MAX_SHOWN = 300
_ADDRESS_KEYS = ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")
_AUTHORITY, _CLIENT = "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"


class MlflowServer:
    """One server.

    Args:
        address: ``http://host:port`` or ``https://host:port``, with a path before the interface if it has one.
        token: Bearer token, if any.
        login: User and password, if any.
        trust: What the server's certificate is checked with; by default the system's authorities.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        login: tuple[str, str] | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL as error:
            raise InvalidConfig("the address of the MLflow server is not one", why=str(error)) from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise InvalidConfig(
                "the address of the MLflow server is not one",
                why=f"its scheme is {url.scheme or 'missing'}, and http or https is needed",
                hint="start one (mlflow server --backend-store-uri sqlite:///mlflow.db) and set MLFLOW_TRACKING_URI",
            )
        self.name = f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}"
        self.host = url.netloc.decode("ascii", "replace")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=url, headers=headers, auth=login, verify=trust or True, timeout=TIMEOUT_S, follow_redirects=False
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "MlflowServer":
        """Return the server that MLflow's own variables name.

        Raises:
            InvalidConfig: They name none, or a certificate that cannot be read.
        """
        address = next((environment[key] for key in _ADDRESS_KEYS if environment.get(key)), "")
        if not address:
            raise InvalidConfig(
                "no MLflow server is named", why="MLFLOW_TRACKING_URI is not set", hint="export MLFLOW_TRACKING_URI=URL"
            )
        user, password = (environment.get(f"MLFLOW_TRACKING_{part}", "") for part in ("USERNAME", "PASSWORD"))
        return cls(
            address,
            token=environment.get("MLFLOW_TRACKING_TOKEN", ""),
            login=(user, password) if user else None,
            trust=_trust(environment),
        )

    def ask(self, path: str, parameters: Mapping[str, str]) -> Row:
        """Return the answer to a GET.

        Raises:
            DsopsError: The server does not answer, or refuses.
        """
        with self._answer(path, parameters) as response:
            found = _decode(_read_bounded(response, MAX_ANSWER_BYTES))
        if not isinstance(found, dict):
            raise TransportError(f"{self.name} does not answer as an MLflow server", why=f"GET {path}")
        return found

    def download(self, artifact: str, to: Path, limit_bytes: int) -> int:
        """Write an artifact into a new file and return its length; a broken transfer leaves no file.

        Raises:
            InvalidInput: It is longer than the limit.
            DsopsError: The server does not answer, or refuses.
        """
        try:
            with self._answer(f"{ARTIFACTS}/{artifact}", {}) as response, to.open("xb") as file:
                return _copy(response, file, limit_bytes)
        except BaseException:
            to.unlink(missing_ok=True)
            raise

    @contextmanager
    def _answer(self, path: str, parameters: Mapping[str, str]) -> Iterator[httpx.Response]:
        try:
            with self._http.stream("GET", path.lstrip("/"), params=dict(parameters)) as response:
                if response.status_code != httpx.codes.OK:
                    raise self._refusal(response)
                yield response
        except httpx.HTTPError as error:
            hint = "check that the server runs and that MLFLOW_TRACKING_URI names it"
            raise ServerUnreachable(
                f"the MLflow server {self.name} does not answer", why=_plain(error), hint=hint
            ) from error

    def _refusal(self, response: httpx.Response) -> DsopsError:
        found = _decode(_read_bounded(response, MAX_ANSWER_BYTES))
        answer = found if isinstance(found, dict) else {}
        text = _short(answer.get("message") or f"HTTP {response.status_code}")
        what = f"the MLflow server {self.name} refused"
        if response.status_code == httpx.codes.UNAUTHORIZED:
            hint = "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            return Unauthorized(what, why=text, hint=hint)
        if response.status_code == httpx.codes.FORBIDDEN:
            return Forbidden(what, why=text)
        if response.status_code == httpx.codes.NOT_FOUND or "not found" in text:  # an unknown alias is a 400
            return NotFound(f"{self.name} does not have it", why=text)
        return TransportError(what, why=f"HTTP {response.status_code}: {text}")


def _trust(environment: Mapping[str, str]) -> ssl.SSLContext | None:
    authority, client = environment.get(_AUTHORITY), environment.get(_CLIENT)
    if not authority and not client:
        return None
    try:
        context = ssl.create_default_context(cafile=authority or None)
        if client:
            context.load_cert_chain(client)
    except OSError as error:
        raise InvalidConfig(
            "a certificate for the MLflow server cannot be used",
            why=error.strerror or str(error),
            hint=f"{_AUTHORITY} and {_CLIENT} name PEM files",
        ) from error
    return context


def _copy(response: httpx.Response, file: BinaryIO, limit_bytes: int) -> int:
    length = 0
    for chunk in response.iter_bytes(1 << 20):
        length += len(chunk)
        if length > limit_bytes:
            raise InvalidInput(f"a file of the registry is longer than {limit_bytes} bytes")
        file.write(chunk)
    return length


def _read_bounded(response: httpx.Response, limit_bytes: int) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > limit_bytes:
            raise TransportError("the answer of the MLflow server is too long", why=f"{limit_bytes} bytes are allowed")
    return bytes(body)


def _decode(body: bytes) -> object:
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found


def _plain(error: httpx.HTTPError) -> str:
    return _short(str(error) or type(error).__name__)


def _short(text: object) -> str:
    return " ".join(str(text).split())[:MAX_SHOWN]
