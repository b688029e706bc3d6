"""How a device gets an identity: a certificate for its request, by a token, by the key before, or by a person.

The private key is made on the device and stays there. Each step can be repeated: a kill at any moment leaves the same
key and the same request, and the controller answers the same request again.
"""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
from cryptography import x509
from pydantic import ValidationError

from dsops.api.v1 import enrolment_pb2_grpc
from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest, RenewRequest
from dsops.bundle import sha256_hex
from dsops.clock import Clock
from dsops.errors import (
    DsopsError,
    EnrolmentFull,
    EnrolmentPending,
    EnrolmentRefused,
    Interrupted,
    InvalidConfig,
    StateDamaged,
    StoreUnreachable,
    every_error,
)
from dsops.files import fsync_folder
from dsops.manifest import first_problem
from dsops.renewal import prove
from dsops_agent.backoff import Backoff
from dsops_agent.config import Enrolment
from dsops_agent.identity import Fleet, Identity, IdentityFolder, certificate_problem, fingerprint
from dsops_agent.transport.grpc import code_and_text, mutually_authenticated, refusal_code, server_authenticated

logger = logging.getLogger(__name__)

DEADLINE_S = 30.0
MAX_TOKEN_BYTES = 4096
_FIRST_WAIT_S = 1.0
_RETRY_S = (1.0, 3600.0)
"""Bounds of the time after which a device that waits asks again, whatever the controller says."""
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
            EnrolmentRefused: The controller said no; the class is that of the code that it gave.
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
                raise _failure(error, f"the enrolment service at {self._config.address}") from error


def renew_over_grpc(identity: Identity, csr_der: bytes) -> EnrolReply:
    """Ask the store once, with an identity that is still valid, for the certificate of the next one.

    Raises:
        EnrolmentRefused: The controller said no; the class is that of the code that it gave.
        StoreUnreachable: It was not reached, or could not answer now.
        StateDamaged: The identity's files cannot be read.
    """
    with mutually_authenticated(identity) as channel:
        try:
            return enrolment_pb2_grpc.RenewalStub(channel).Renew(RenewRequest(csr_der=csr_der), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            raise _failure(error, f"the renewal service at {identity.fleet.store}") from error


def _failure(error: grpc.RpcError, where: str) -> DsopsError:
    status, text = code_and_text(error)
    kind = every_error().get(refusal_code(error), DsopsError)
    if issubclass(kind, EnrolmentRefused):
        return kind("the controller refused to enrol this device", why=text or status.name)
    if status in _REFUSALS:
        why = text or status.name
        return EnrolmentRefused("the controller refused to enrol this device", why=why, refusal=kind.code)
    return StoreUnreachable(f"{where} does not answer", why=f"{status.name}: {text}")


@dataclass(frozen=True)
class Applicant:
    """A device that asks for an identity.

    Attributes:
        device: Its name.
        config: Where it asks.
        folder: Where identities are kept.
        facts: What the controller is told of it.
        ask: Asks the controller once.
    """

    device: str
    config: Enrolment
    folder: IdentityFolder
    facts: Mapping[str, str]
    ask: Enroller
    clock: Clock

    def new_token(self) -> str:
        """Return the token, or an empty text when there is none; one that was used already is deleted.

        Raises:
            InvalidConfig: The token's file cannot be read.
        """
        path = self.config.token
        if path is None or not path.exists():
            return ""
        token = _read(path, "enrolment.token", MAX_TOKEN_BYTES).decode("utf-8", "replace").strip()
        if not self.folder.was_used(sha256_hex(token.encode())):
            return token
        _forget(path)
        return ""

    def enrol(self, token: str, old: Identity | None = None, *, with_proof: bool = True) -> Identity:
        """Ask once, write the identity, and delete the token.

        Args:
            token: What :meth:`new_token` gave; empty without one.
            old: The identity in use.
            with_proof: Whether its key proves who asks; a token does it in any case.

        Raises:
            EnrolmentPending: An operator has to decide; ``retry_s`` in its details says when to ask again.
            EnrolmentRefused: The controller refused, or its answer cannot be used.
            StoreUnreachable: Nothing answered.
            NoSpace: The disk is full.
        """
        csr = self.folder.request(self.device)
        request = EnrolRequest(device=self.device, token=token, csr_der=csr, facts=self.facts)
        request.content_public_key = self.folder.content_key().public_key().public_bytes_raw()
        if old is not None and with_proof and not token:
            request.proof = prove(self.device, csr, old.key, self.clock.now())
        reply = self.ask(request)
        if reply.pending:
            raise self._pending(reply.retry_s)
        digest = sha256_hex(token.encode()) if token else ""
        identity = accept(reply, self.device, self.folder, old, digest)
        if token and self.config.token is not None:
            _forget(self.config.token)
        return identity

    def _pending(self, retry_s: int) -> EnrolmentPending:
        least_s, most_s = _RETRY_S
        return EnrolmentPending(
            f"pending: waits for dsops device accept {self.device}",
            why=f"the fingerprint of its key is {fingerprint(self.folder.key())}",
            retry_s=min(most_s, max(least_s, retry_s)),
        )


def accept(reply: EnrolReply, device: str, folder: IdentityFolder, old: Identity | None, token: str = "") -> Identity:
    """Use what the controller answered from now on, if it is an identity of this device.

    Args:
        reply: The answer.
        device: This device.
        folder: Where identities are kept.
        old: The identity in use; the new one must be of the same fleet.
        token: Digest of the token that was used, if one was.

    Raises:
        EnrolmentRefused: The answer cannot be used.
        NoSpace: The disk is full.
    """
    fleet = _checked(reply, device, folder)
    if old is not None and _home(fleet) != _home(old.fleet):
        hint = "to move a device to another fleet: dsops-agent identity reset"
        raise EnrolmentRefused("the controller's answer cannot be used", why="it is for another fleet", hint=hint)
    folder.complete(reply.certificate_pem, reply.ca_pem, fleet, token)
    identity = folder.load(device)
    if identity is None:
        raise StateDamaged("the identity is gone right after it was written")
    return identity


def enrol_until_done(attempt: Callable[[], Identity], stop: threading.Event, most_s: float) -> Identity:
    """Call ``attempt`` until it gives an identity; wait between tries while nobody answers or decides.

    Args:
        attempt: Asks once.
        stop: Ends the waiting.
        most_s: Longest wait between two tries while nothing answers, in seconds.

    Raises:
        Interrupted: ``stop`` was set.
        DsopsError: What ``attempt`` raises, other than StoreUnreachable, EnrolmentPending and EnrolmentFull.
    """
    draw = random.SystemRandom().random
    backoff = Backoff(_FIRST_WAIT_S, most_s, draw)
    while not stop.is_set():
        try:
            return attempt()
        except EnrolmentPending as error:
            backoff.reset()
            why, wait_s = str(error), pending_wait_s(error, draw())
        except (StoreUnreachable, EnrolmentFull) as error:
            why, wait_s = str(error), backoff.next_s()
        logger.warning("not enrolled yet, next try in %.1f s: %s", wait_s, why)
        stop.wait(wait_s)
    raise Interrupted("stopped before the device was enrolled")


def pending_wait_s(error: EnrolmentPending, draw: float) -> float:
    """Return when to ask again, in seconds: what the controller said, a quarter less or more, so that not all come."""
    return float(error.details.get("retry_s", _RETRY_S[1])) * (0.75 + draw / 2)


def _forget(path: Path) -> None:
    """Delete a token that was used; a failure is logged, for the token is worth nothing any more."""
    try:
        path.unlink(missing_ok=True)
        fsync_folder(path.parent)
    except OSError as error:
        logger.debug("the used enrolment token %s could not be deleted: %s", path, error.strerror)


def _home(fleet: Fleet) -> tuple[str, str]:
    return fleet.fleet, fleet.topic_prefix


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
            hint="check the [enrolment] section of the configuration, and who may read the file",
            key=key,
        ) from error
    if not data.strip() or len(data) > most:
        raise InvalidConfig(f"{path} is empty or too long", why=f"{key} names it", hint="write the file again", key=key)
    return data
