"""Channels and calls to the controller over gRPC, and what their failures mean."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import grpc

from dsops.api.v1 import samples_pb2_grpc, telemetry_pb2_grpc
from dsops.api.v1.samples_pb2 import SampleBatch
from dsops.api.v1.telemetry_pb2 import Ack, TelemetryBatch
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


class AckStream(Protocol):
    """Answers of one open stream."""

    def __iter__(self) -> Iterator[Ack]:
        """Return the answers in order."""
        ...

    def cancel(self) -> bool:
        """End the stream at once."""
        ...


BatchT = TypeVar("BatchT")
Upload = Callable[[Iterator[BatchT], float], AckStream]
"""Opens one stream that sends batches; it is broken off after so many seconds."""


def server_authenticated(address: str, ca_pem: bytes) -> grpc.Channel:
    """Open a channel to a server that must have a certificate of ``ca_pem``."""
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(root_certificates=ca_pem), options=OPTIONS)


def mutually_authenticated(identity: Identity) -> grpc.Channel:
    """Open the channel to the store with the device's own certificate. One channel for the life of the process.

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


def telemetry_upload(channel: grpc.Channel) -> Upload[TelemetryBatch]:
    """Return the call that reports telemetry."""
    stub = telemetry_pb2_grpc.TelemetryStub(channel)
    return lambda batches, timeout_s: stub.Report(batches, timeout=timeout_s)


def sample_upload(channel: grpc.Channel) -> Upload[SampleBatch]:
    """Return the call that uploads samples."""
    stub = samples_pb2_grpc.SamplesStub(channel)
    return lambda batches, timeout_s: stub.Upload(batches, timeout=timeout_s)


def code_and_text(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Return a failed call's status and its text."""
    if isinstance(error, grpc.Call):
        return error.code() or grpc.StatusCode.UNKNOWN, error.details() or ""
    return grpc.StatusCode.UNKNOWN, str(error)
