"""What rules of trust refuse; see :mod:`dsops.trust` and :mod:`dsops.directive`."""

from dsops.errors.bundle import UntrustedBundle


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
