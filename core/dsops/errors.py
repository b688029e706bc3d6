"""The error tree of dsops, split by whose problem an error is.

    DsopsError
    ├── BundleError       the artifact: malformed, untrusted, incompatible, wrong answers
    ├── TransportError    the network: broker, store or server not reached, refused or silent
    ├── DeviceError       the host: disk, memory, ports, inference runtime, state on disk
    └── RequestError      the caller: configuration, arguments, names, conflicts

A leaf has a stable ``code``. An error carries three lines for people: what happened, why, and what to do (``hint``).
Programming errors are not in the tree. Exceptions never log.
"""

from typing import ClassVar


class DsopsError(Exception):
    """Root of every expected failure.

    Args:
        what: One line that says what happened.
        why: One line that says why, when it is known.
        hint: One line that says what to do.
        details: Machine-readable facts (names, sizes, digests); never secrets.
    """

    code: ClassVar[str] = "error"
    default_hint: ClassVar[str] = ""

    def __init__(self, what: str, *, why: str = "", hint: str = "", **details: str | int | float | bool) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint or self.default_hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form: ``code``, ``message``, ``why``, ``hint``, ``details``."""
        return {"code": self.code, "message": self.what, "why": self.why, "hint": self.hint, "details": self.details}


class BundleError(DsopsError):
    """The artifact is at fault."""

    code = "bundle"


class MalformedBundle(BundleError):
    """The bytes do not follow the bundle format."""

    code = "bundle.malformed"
    default_hint = "build or fetch the bundle again; the file is damaged or is not a dsops bundle"


class DigestMismatch(BundleError):
    """Bytes differ from the digest that was signed."""

    code = "bundle.digest_mismatch"
    default_hint = "fetch the bundle again; if it happens twice, the copy at the source is damaged"


class UntrustedBundle(BundleError):
    """A signature, role, version or policy rule refused it."""

    code = "bundle.untrusted"
    default_hint = "sign the bundle with the model owner's key, or check which trust root the device holds"


class Refusal(UntrustedBundle):
    """A rule of trust refused what came from outside; each rule below has a class, and a code, of its own."""

    code = "trust"


class MalformedMetadata(Refusal):
    """Trust metadata, or the pack that carries it, cannot be parsed or is too long."""

    code = "trust.metadata_malformed"
    default_hint = "check which controller and broker the device is connected to"


class UnsignedMetadata(Refusal):
    """Trust metadata is not signed by enough of the keys that its role names."""

    code = "trust.metadata_unsigned"
    default_hint = "let the role's holders sign it: dsops trust sign"


class ExpiredMetadata(Refusal):
    """Trust metadata has expired."""

    code = "trust.metadata_expired"
    default_hint = "check the device's clock; if it is right, let the role be signed again: dsops trust renew"


class OldMetadata(Refusal):
    """Trust metadata is older than what was accepted before."""

    code = "trust.metadata_rollback"
    default_hint = "publish the newest metadata again; after the theft of an online key: dsops trust rotate"


class MismatchedMetadata(Refusal):
    """Parts of the trust metadata are not of the same moment: length or digest differ from what was signed."""

    code = "trust.metadata_mismatch"
    default_hint = "publish the metadata again: it was mixed or damaged on its way"


class EndlessMetadata(Refusal):
    """Trust metadata is longer than its limit."""

    code = "trust.metadata_endless"
    default_hint = "check which controller and broker the device is connected to"


class IncompleteMetadata(Refusal):
    """A part of the trust metadata is missing, or hidden."""

    code = "trust.metadata_incomplete"
    default_hint = "publish the metadata again; if it stays so, see: dsops trust doctor"


class MalformedDirective(Refusal):
    """A directive's envelope cannot be parsed, is too long, or is of another type."""

    code = "trust.directive_malformed"
    default_hint = "check that controller and agent are of versions that fit"


class UnsignedDirective(Refusal):
    """A directive is not signed by enough keys of the director."""

    code = "trust.directive_unsigned"
    default_hint = "somebody else than the controller may write to the broker: check its access control"


class ForeignFleet(Refusal):
    """A directive, or the trust metadata, is of another fleet."""

    code = "trust.wrong_fleet"
    default_hint = "check which controller the device is connected to"


class ForeignDevice(Refusal):
    """A directive is for another device."""

    code = "trust.wrong_device"
    default_hint = "the broker hands out messages of others: check its access control"


class ReplayedDirective(Refusal):
    """A directive is not newer than the one accepted last."""

    code = "trust.directive_replayed"
    default_hint = "nothing to do if the newest directive follows; else the broker replays old messages"


class LeapingDirective(Refusal):
    """A directive's number is so far ahead that numbers could run out."""

    code = "trust.directive_leaps"
    default_hint = "somebody may hold the director's key: rotate it; the device goes on with its own number"


class ExpiredDirective(Refusal):
    """A directive has expired by trusted time."""

    code = "trust.directive_expired"
    default_hint = "check the device's clock; the controller sends a new directive when it sees the device"


class UnknownTarget(Refusal):
    """The owners of a model signed no bundle of that name."""

    code = "trust.target_unknown"
    default_hint = "sign the bundle with the model owner's key: dsops bundle sign"


class DifferentTarget(Refusal):
    """Digest or length that a directive names are not those that the owners signed."""

    code = "trust.target_differs"
    default_hint = "push the very file that was signed"


class ForeignTarget(Refusal):
    """A bundle belongs to another slot: its signed model or release is not what the directive says."""

    code = "trust.target_foreign"
    default_hint = "roll the release out under its own model and number"


class BelowFloor(Refusal):
    """A release is below the floor that the release managers signed."""

    code = "trust.below_floor"
    default_hint = "roll out a newer release"


class UnlistedRelease(Refusal):
    """The policy lists releases, and not this one."""

    code = "trust.release_unlisted"
    default_hint = "let the release managers list it: dsops policy set"


class OutsideRing(Refusal):
    """A device is outside the share of the fleet for which a release was signed."""

    code = "trust.outside_ring"
    default_hint = "let the release managers widen the ring: dsops policy set"


class MalformedReport(Refusal):
    """A device's report is signed by the device, and cannot be parsed."""

    code = "trust.report_malformed"
    default_hint = "check that controller and agent are of versions that fit"


class UnsignedReport(Refusal):
    """A device's report is not signed by a key of the device."""

    code = "trust.report_unsigned"
    default_hint = "somebody else than the device may write to the broker: check its access control"


class ForeignReport(Refusal):
    """A device's report is about another device."""

    code = "trust.report_foreign"
    default_hint = "the device speaks for another one: consider dsops device suspend"


class ReplayedReport(Refusal):
    """A device's report is older than the newest one, and is not the copy that the broker retains."""

    code = "trust.report_replayed"
    default_hint = "nothing to do if newer reports follow; else the broker replays, or a copy of the device speaks"


class ForkedReport(Refusal):
    """A report does not follow from the one before: two devices use one identity, or old state was restored."""

    code = "trust.report_forked"
    default_hint = "find the copy; then enrol the device anew with a new token"


class ContentSealed(BundleError):
    """An encrypted payload cannot be opened: no key came for this device, or it is not the right one."""

    code = "bundle.sealed"
    default_hint = "let the controller send a new directive, and check that it holds the bundle's content key"


class IncompatibleBundle(BundleError):
    """The device cannot run it: hardware, runtime version or operators."""

    code = "bundle.incompatible"
    default_hint = "build a variant for this class of hardware"


class WrongHardware(IncompatibleBundle):
    """A bundle was signed for other classes of hardware."""

    code = "bundle.wrong_hardware"


class RuntimeTooOld(IncompatibleBundle):
    """A bundle needs a newer inference runtime than the device has."""

    code = "incompatible.runtime"
    default_hint = "update ai-edge-litert on the device, or build for its version"


class OperatorMissing(IncompatibleBundle):
    """The device's runtime does not know an operator, or not in the version that the model uses."""

    code = "incompatible.operator"
    default_hint = "update ai-edge-litert on the device, or build without the operator"


class ContractBroken(IncompatibleBundle):
    """Inputs or outputs are not those that programs on the device use now."""

    code = "incompatible.tensors"
    default_hint = "if the programs are ready for it: dsops rollout create --changes-contract"


class DelegateMissing(IncompatibleBundle):
    """A bundle needs an accelerator that the device does not have."""

    code = "incompatible.delegate"


class OverMemory(IncompatibleBundle):
    """A bundle needs more memory than the device has."""

    code = "incompatible.memory"
    default_hint = "build a smaller variant for this class of hardware"


class OverSize(IncompatibleBundle):
    """A bundle is larger than the device, or its own budget, allows."""

    code = "incompatible.size"
    default_hint = "build a smaller variant for this class of hardware"


class TooSlow(IncompatibleBundle):
    """A frame takes longer on the device than the budget allows."""

    code = "incompatible.latency"
    default_hint = "build a faster variant for this class of hardware"


class GoldenMismatch(BundleError):
    """The model does not give the expected outputs for its golden inputs."""

    code = "bundle.golden_mismatch"
    default_hint = "build the bundle again: payload, labels and golden inputs do not belong together"


class InvalidModel(BundleError):
    """A model file is not one, or its structure is unsound."""

    code = "model.invalid"
    default_hint = "export the model again"


class UnsupportedModel(BundleError):
    """A model uses an operator or a shape that cannot be converted."""

    code = "model.unsupported"
    default_hint = "replace the operator, or convert the model to TFLite by another tool and give that file"


class AccuracyGateFailed(BundleError):
    """The quantized model is worse than its gate allows."""

    code = "model.accuracy_gate"
    default_hint = "give more calibration data, choose another quantization mode, or change the gate"


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


class DeviceError(DsopsError):
    """The host is at fault."""

    code = "device"


class NoSpace(DeviceError):
    """The disk is full, or would be."""

    code = "device.no_space"
    default_hint = "free disk space; what was installed before keeps running"


class NoMemory(DeviceError):
    """Memory is short at the moment."""

    code = "device.no_memory"
    default_hint = "end what else needs memory on the device; what was installed before keeps running"


class PortBusy(DeviceError):
    """An address is already in use."""

    code = "device.port_busy"
    default_hint = "stop the program that holds it, or choose another port"


class RuntimeMissing(DeviceError):
    """No TFLite runtime can be loaded."""

    code = "device.runtime_missing"
    default_hint = "pip install 'dsops[agent]'"


class RuntimeCrashed(DeviceError):
    """The inference process died or did not answer in time."""

    code = "device.runtime_crashed"
    default_hint = "see the agent's log; the model may be damaged or too large for this device"


class StateDamaged(DeviceError):
    """State on disk cannot be read."""

    code = "device.state_damaged"
    default_hint = "restore the state folder from a backup, or enrol the device again"


class AlreadyRunning(DeviceError):
    """Another process holds the state folder."""

    code = "device.already_running"
    default_hint = "stop the other process first, or use another state folder"


class RequestError(DsopsError):
    """The caller is at fault."""

    code = "request"


class InvalidConfig(RequestError):
    """A configuration file is missing, malformed, or has an unknown or missing key."""

    code = "request.invalid_config"


class InvalidInput(RequestError):
    """An argument or an input file has the wrong form."""

    code = "request.invalid_input"


class NotFound(RequestError):
    """What was named does not exist."""

    code = "request.not_found"


class Conflict(RequestError):
    """The request contradicts the present state."""

    code = "request.conflict"


class Unauthorized(RequestError):
    """The caller did not prove who it is."""

    code = "request.unauthorized"
    default_hint = "use the context file that `dsops server init` wrote: --context FILE"


class Forbidden(RequestError):
    """The caller is known, and may not do this."""

    code = "request.forbidden"


class TooLarge(InvalidInput):
    """A request's body is longer than allowed."""

    code = "request.too_large"


class Cancelled(RequestError):
    """A newer directive does not want the bundle any more."""

    code = "request.cancelled"
    default_hint = "nothing to do"


class MissingExtra(RequestError):
    """An optional part of the distribution is not installed."""

    code = "request.missing_extra"


class AwaitedFailure(RequestError):
    """What was waited for ended, but not well."""

    code = "request.awaited_failure"


class TimedOut(RequestError):
    """What was waited for is still in progress."""

    code = "request.timed_out"


class Interrupted(RequestError):
    """The user interrupted the command."""

    code = "request.interrupted"


def every_error() -> dict[str, type[DsopsError]]:
    """Return every class of the tree by its code."""
    found: dict[str, type[DsopsError]] = {}
    todo: list[type[DsopsError]] = [DsopsError]
    while todo:
        cls = todo.pop()
        found[cls.code] = cls
        todo.extend(cls.__subclasses__())
    return found


def from_dict(data: dict[str, object]) -> DsopsError:
    """Rebuild an error that crossed a process border as :meth:`DsopsError.as_dict`."""
    cls = every_error().get(str(data.get("code")), DsopsError)
    details = data.get("details")
    known = details if isinstance(details, dict) else {}
    return cls(str(data.get("message", "")), why=str(data.get("why", "")), hint=str(data.get("hint", "")), **known)
