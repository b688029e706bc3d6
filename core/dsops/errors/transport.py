"""What is wrong with the network, and with those who answer over it."""

from dsops.errors.base import DsopsError


class TransportError(DsopsError):
    """The network is at fault."""

    code = "transport"


class BrokerUnreachable(TransportError):
    """No MQTT session with the broker."""

    code = "transport.broker_unreachable"
    default_hint = "check that the broker runs and that address, port and certificates are right"


class IdentityRefused(BrokerUnreachable):
    """The broker refuses the device's certificate: revoked, expired, or of a device that was shut out."""

    code = "transport.identity_refused"
    default_hint = "ask an operator what the controller says of it: dsops device show <device>"


class StoreUnreachable(TransportError):
    """No gRPC session with the DataOps store or the enrolment service."""

    code = "transport.store_unreachable"
    default_hint = "check that `dsops server run` runs and that address, port and certificates are right"


class ServerUnreachable(TransportError):
    """The controller's REST interface does not answer."""

    code = "transport.server_unreachable"
    default_hint = "check that `dsops server run` runs and that the context file names its address"


class Overloaded(TransportError):
    """More batches arrive than the store can commit."""

    code = "transport.store_overloaded"
    default_hint = "send the batch again after the pause; nothing is lost"


class QuotaExceeded(Overloaded):
    """This device sends more than its quota; others are not meant."""

    code = "transport.quota_exceeded"
    default_hint = "wait as long as the refusal says; if the device has good reason, raise [quotas] in controller.toml"


class EnrolmentRefused(TransportError):
    """The controller refused to enrol this device."""

    code = "transport.enrolment_refused"
    default_hint = "ask an operator for a new token: dsops device token <device>"


class TokenUnknown(EnrolmentRefused):
    """There is no such token for this name."""

    code = "enrolment.token_unknown"


class TokenExpired(EnrolmentRefused):
    """The token has expired."""

    code = "enrolment.token_expired"


class TokenUsed(EnrolmentRefused):
    """The token was used already, with another key."""

    code = "enrolment.token_used"


class IdentityTaken(EnrolmentRefused):
    """Another key holds or claims the device's name."""

    code = "enrolment.identity_taken"
    default_hint = "choose another name, or ask an operator for a token for this one: dsops device token <device>"


class DeviceBarred(EnrolmentRefused):
    """An operator suspended, rejected or decommissioned the device."""

    code = "enrolment.device_barred"
    default_hint = "ask an operator: dsops device accept <device>"


class EnrolmentPending(EnrolmentRefused):
    """The device waits for an operator to accept it."""

    code = "enrolment.pending"
    default_hint = "compare the key's fingerprint on both sides, then: dsops device accept <device>"


class EnrolmentFull(EnrolmentRefused):
    """Too many strangers wait or come at once."""

    code = "enrolment.full"
    default_hint = "ask an operator for a token, or try again later"


class GraceOver(EnrolmentRefused):
    """The certificate ended too long ago to be renewed with the old key."""

    code = "enrolment.grace_over"


class TransferFailed(TransportError):
    """Chunks of a bundle could not be fetched."""

    code = "transport.transfer_failed"
    default_hint = "the agent tries again; if it goes on, check that the controller is connected to the broker"


class DeltaFailed(TransferFailed):
    """A delta does not make the wanted bundle of what the device holds; the whole bundle is fetched instead."""

    code = "transport.delta_failed"
    default_hint = "nothing to do: the whole bundle is fetched instead"


class SourceFailed(TransferFailed):
    """A source of chunks does not bring what was asked for; each way to fail has a code of its own."""

    code = "source"
    default_hint = "the agent goes on with its other sources; check the one that is named"


class SourceUnreachable(SourceFailed):
    """A source does not answer."""

    code = "source.unreachable"


class SourceLacks(SourceFailed):
    """A source does not have the file (HTTP 404 or 410)."""

    code = "source.not_found"


class SourceRefused(SourceFailed):
    """A source answers with an error."""

    code = "source.refused"


class SourceIgnoresRange(SourceFailed):
    """An HTTP server sends the whole file where a part was asked for (200 instead of 206, RFC 9110 section 15.3.7)."""

    code = "source.no_range"
    default_hint = "serve the files from a server that knows Range"


class SourceEndless(SourceFailed):
    """A source sends more than was asked for."""

    code = "source.endless"


class SourceTruncated(SourceFailed):
    """A source sends less than was asked for."""

    code = "source.truncated"


class SourceSlow(SourceFailed):
    """A source sends too slowly to be of use."""

    code = "source.slow"


class SourceLies(SourceFailed):
    """A source sends other bytes than those that were asked for."""

    code = "source.lies"
