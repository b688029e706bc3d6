"""How a device gets its identity: a one-time token and a signing request against a certificate.

The private key is made on the device and stays there. Each step can be repeated: a kill at any moment leaves the same
key and the same request, and the controller answers the same request again.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import grpc
from cryptography import x509
from pydantic import ValidationError

from dsops.api.v1 import enrolment_pb2_grpc
from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest
from dsops.errors import DsopsError, EnrolmentRefused, Interrupted, InvalidConfig, StateDamaged, StoreUnreachable
from dsops.files import fsync_folder
from dsops.manifest import first_problem
from dsops_agent.backoff import Backoff
from dsops_agent.config import Enrolment
from dsops_agent.identity import Fleet, Identity, IdentityFolder, certificate_problem
from dsops_agent.transport.grpc import code_and_text, server_authenticated

logger = logging.getLogger(__name__)

DEADLINE_S = 30.0
MAX_TOKEN_BYTES = 4096
_FIRST_WAIT_S = 1.0
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class Enroller(Protocol):
    """Asks a controller once."""

    def __call__(self, request: EnrolRequest) -> EnrolReply:
        """Return the answer.

        Raises:
            EnrolmentRefused: The controller said no.
            StoreUnreachable: It was not reached, or could not answer now.
        """
        ...


class GrpcEnroller:
    """Asks over gRPC with TLS; the server must have a certificate of the configured authority."""

    def __init__(self, config: Enrolment) -> None:
        self._config = config

    def __call__(self, request: EnrolRequest) -> EnrolReply:
        """Ask once; see :class:`Enroller`."""
        with server_authenticated(self._config.address, _read(self._config.ca, "enrolment.ca")) as channel:
            try:
                return enrolment_pb2_grpc.EnrolmentStub(channel).Enrol(request, timeout=DEADLINE_S)
            except grpc.RpcError as error:
                code, text = code_and_text(error)
                raise _failure(self._config.address, code, text) from error


def _failure(address: str, code: grpc.StatusCode, text: str) -> DsopsError:
    if code in _REFUSALS:
        return EnrolmentRefused("the controller refused to enrol this device", why=text or code.name, code=code.name)
    return StoreUnreachable(f"the enrolment service at {address} does not answer", why=f"{code.name}: {text}")


def enrol(
    device: str,
    config: Enrolment,
    folder: IdentityFolder,
    facts: Mapping[str, str],
    ask: Enroller,
) -> Identity:
    """Enrol once, write the identity, and delete the token.

    Raises:
        InvalidConfig: The token's file cannot be read.
        EnrolmentRefused: The controller refused, or its answer cannot be used.
        StoreUnreachable: Nothing answered.
        NoSpace: The disk is full.
    """
    token = _read(config.token, "enrolment.token", MAX_TOKEN_BYTES).decode("utf-8", "replace").strip()
    content_key = folder.content_key().public_key().public_bytes_raw()
    request = EnrolRequest(
        device=device, token=token, csr_der=folder.request(device), facts=facts, content_public_key=content_key
    )
    reply = ask(request)
    folder.complete(reply.certificate_pem, reply.ca_pem, _checked(reply, device, folder))
    identity = folder.load(device)
    if identity is None:
        raise StateDamaged("the identity is gone right after it was written")
    forget_token(config.token)
    return identity


def enrol_until_done(attempt: Callable[[], Identity], stop: threading.Event, most_s: float) -> Identity:
    """Call ``attempt`` until it gives an identity; wait between tries while nothing answers.

    Raises:
        Interrupted: ``stop`` was set.
        DsopsError: What ``attempt`` raises, other than StoreUnreachable.
    """
    backoff = Backoff(_FIRST_WAIT_S, most_s, random.SystemRandom().random)
    while not stop.is_set():
        try:
            return attempt()
        except StoreUnreachable as error:
            wait_s = backoff.next_s()
            logger.warning("not enrolled yet, next try in %.1f s: %s", wait_s, error)
            stop.wait(wait_s)
    raise Interrupted("stopped before the device was enrolled")


def forget_token(path: Path) -> None:
    """Delete a token that was used; a failure is logged, for the token is worth nothing any more."""
    try:
        path.unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        logger.warning("the used enrolment token %s could not be deleted: %s", path, error.strerror)


def _checked(reply: EnrolReply, device: str, folder: IdentityFolder) -> Fleet:
    try:
        certificate = x509.load_pem_x509_certificate(reply.certificate_pem)
        x509.load_pem_x509_certificates(reply.ca_pem)
        fleet = Fleet(fleet=reply.fleet, broker=reply.broker, store=reply.store, topic_prefix=reply.topic_prefix)
    except ValidationError as error:
        raise _unusable(first_problem(error)) from error
    except ValueError as error:
        raise _unusable(str(error)) from error
    problem = certificate_problem(certificate, device, folder.key())
    if problem:
        raise _unusable(problem)
    return fleet


def _unusable(why: str) -> EnrolmentRefused:
    return EnrolmentRefused("the controller's answer cannot be used", why=why, hint="check the controller's version")


def _read(path: Path, key: str, most: int = 1 << 20) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidConfig(
            f"cannot read {path}",
            why=f"{key} names it: {error.strerror}",
            hint="the device has no identity yet: ask an operator for a token (dsops device token DEVICE)",
            key=key,
        ) from error
    if not data.strip() or len(data) > most:
        raise InvalidConfig(f"{path} is empty or too long", why=f"{key} names it", hint="write the file again", key=key)
    return data
