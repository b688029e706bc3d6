"""Channels and calls to the controller over gRPC, and what their failures mean."""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import grpc

from dsops.api.v1.samples_pb2 import SampleBatch
from dsops.api.v1.samples_pb2_grpc import SamplesStub
from dsops.api.v1.telemetry_pb2 import Ack, TelemetryBatch
from dsops.api.v1.telemetry_pb2_grpc import TelemetryStub
from dsops.clock import Clock
from dsops.errors import StateDamaged
from dsops_agent.identity import Identity

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it a dead peer that still acknowledges TCP is noticed after 60 s
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 30_000),
    ("grpc.enable_retries", 0),  # what is not acknowledged is in the spool; the uploader decides when to try again
    ("grpc.enable_http_proxy", 0),
)

RETIRED_S = 60.0
"""How long calls over a channel that was replaced may go on; none takes longer than half of it."""
CODE_KEY = "dsops-code"
"""Trailing metadata of every refusal: the error's code."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata of a refusal for want of room or quota: how long to wait (gRFC A6, pushback)."""


class AckStream(Protocol):
    """Answers of one open stream."""

    def __iter__(self) -> Iterator[Ack]:
        """Return the answers in order."""
        ...

    def cancel(self) -> bool:
        """End the stream at once."""
        ...


BatchT = TypeVar("BatchT")
Upload = Callable[[Iterator[BatchT], float, bool], AckStream]
"""Opens one stream that sends batches; it is broken off after so many seconds. The last says whether to compress."""


def server_authenticated(address: str, ca_pem: bytes) -> grpc.Channel:
    """Open a channel to a server that must have a certificate of ``ca_pem``."""
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(root_certificates=ca_pem), options=OPTIONS)


def mutually_authenticated(identity: Identity) -> grpc.Channel:
    """Open a channel to the store with the device's own certificate.

    Raises:
        StateDamaged: The identity's files cannot be read.
    """
    try:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=identity.ca_path.read_bytes(),
            private_key=identity.key_path.read_bytes(),
            certificate_chain=identity.certificate_path.read_bytes(),
        )
    except OSError as error:
        raise StateDamaged("the identity cannot be read", why=str(error)) from error
    return grpc.secure_channel(identity.fleet.store, credentials, options=OPTIONS)


class StoreChannel:
    """The channel to the store, made anew when the identity has changed. May be used by several threads.

    What goes on over the channel before may come to its end first.
    """

    def __init__(self, identity: Callable[[], Identity], clock: Clock) -> None:
        self._identity = identity
        self._clock = clock
        self._lock = threading.Lock()
        self._open: tuple[Identity, grpc.Channel] | None = None
        self._retired: list[tuple[float, grpc.Channel]] = []

    def __call__(self) -> grpc.Channel:
        """Return the channel with the identity in use.

        Raises:
            StateDamaged: The identity's files cannot be read.
        """
        with self._lock:
            self._close_retired(self._clock.monotonic_s() - RETIRED_S)
            identity = self._identity()
            if self._open is None or self._open[0] is not identity:
                channel = mutually_authenticated(identity)
                if self._open is not None:
                    self._retired.append((self._clock.monotonic_s(), self._open[1]))
                self._open = (identity, channel)
            return self._open[1]

    def close(self) -> None:
        """Close every channel."""
        with self._lock:
            self._close_retired(self._clock.monotonic_s())
            if self._open is not None:
                self._open[1].close()
                self._open = None

    def _close_retired(self, until_s: float) -> None:
        for retired_s, channel in self._retired:
            if retired_s <= until_s:
                channel.close()
        self._retired = [retired for retired in self._retired if retired[0] > until_s]


def telemetry_upload(channel: Callable[[], grpc.Channel]) -> Upload[TelemetryBatch]:
    """Return the call that reports telemetry over the channel of the moment."""
    return lambda batches, timeout_s, compress: TelemetryStub(channel()).Report(
        batches, timeout=timeout_s, compression=_compression(compress=compress)
    )


def sample_upload(channel: Callable[[], grpc.Channel]) -> Upload[SampleBatch]:
    """Return the call that uploads samples over the channel of the moment."""
    return lambda batches, timeout_s, compress: SamplesStub(channel()).Upload(
        batches, timeout=timeout_s, compression=_compression(compress=compress)
    )


def _compression(*, compress: bool) -> grpc.Compression:
    return grpc.Compression.Gzip if compress else grpc.Compression.NoCompression


def code_and_text(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Return a failed call's status and its text."""
    if isinstance(error, grpc.Call):
        return error.code() or grpc.StatusCode.UNKNOWN, error.details() or ""
    return grpc.StatusCode.UNKNOWN, str(error)


def refusal_code(error: grpc.RpcError) -> str:
    """Return the code of the error by which the controller refused a call, or an empty text."""
    return _trailer(error, CODE_KEY)


def pushback_s(error: grpc.RpcError) -> float:
    """Return how long a server that has no room asks to wait, in seconds; 0 when it asks nothing."""
    text = _trailer(error, PUSHBACK_KEY)
    return int(text) / 1000 if text.isascii() and text.isdecimal() else 0.0


def _trailer(error: grpc.RpcError, wanted: str) -> str:
    if not isinstance(error, grpc.Call):
        return ""
    found = next((value for key, value in error.trailing_metadata() or [] if key == wanted), "")
    return found if isinstance(found, str) else found.decode("ascii", "replace")
