"""What of ``controller.toml`` is about monitoring systems."""

from pathlib import Path

from pydantic import Field

from dsops.bundle import sha256_hex
from dsops.errors import InvalidConfig
from dsops.manifest import Frozen

MIN_TOKEN = 16


class MetricsSettings(Frozen):
    """Who may read ``/metrics`` besides the operator.

    Attributes:
        token_file: File with a bearer token, at least 16 characters, that opens ``/metrics`` and nothing else; relative
            to the server's folder. Empty: only the operator's token does.
    """

    token_file: str = ""


class OtlpSettings(Frozen):
    """Where the fleet's figures are sent by OTLP (OpenTelemetry protocol 1.x, HTTP with JSON).

    Attributes:
        endpoint: Address of the receiver without ``/v1/metrics``; empty sends nothing. ``https://``, or ``http://``
            in a network that is trusted.
        headers: Sent along, for example the receiver's key.
        interval_s: Seconds between two exports.
        timeout_s: How long an answer may take.
        ca_file: PEM file of authorities to believe instead of the system's; relative to the server's folder.
    """

    endpoint: str = Field(default="", pattern=r"^(https?://[^\s?#]+[^\s?#/])?$")
    headers: dict[str, str] = Field(default={}, max_length=16)
    interval_s: float = Field(default=60.0, ge=1, le=3600)
    timeout_s: float = Field(default=10.0, gt=0, le=300)
    ca_file: str = ""


def metrics_token_sha256(folder: Path, settings: MetricsSettings) -> str:
    """Return the SHA-256 of the token that opens ``/metrics`` only; empty when there is none.

    Raises:
        InvalidConfig: Its file cannot be read, or it is too short.
    """
    if not settings.token_file:
        return ""
    path = folder / settings.token_file
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        hint = "write a token into it, or take [metrics] token_file away"
        raise InvalidConfig(f"cannot read {path}", why=str(error.strerror), hint=hint) from error
    if len(token) < MIN_TOKEN:
        raise InvalidConfig(f"the token in {path} has fewer than {MIN_TOKEN} characters", hint="openssl rand -hex 32")
    return sha256_hex(token)
