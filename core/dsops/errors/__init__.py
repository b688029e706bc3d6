"""The error tree of dsops, split by whose problem an error is.

    DsopsError
    ├── BundleError       the artifact: malformed, untrusted, incompatible, wrong answers
    ├── TransportError    the network: broker, store or server not reached, refused or silent
    ├── DeviceError       the host: disk, memory, ports, inference runtime, state on disk
    └── RequestError      the caller: configuration, arguments, names, conflicts

A leaf has a stable ``code``. An error carries three lines for people: what happened, why, and what to do (``hint``).
Programming errors are not in the tree. Exceptions never log.
"""

from dsops.errors.base import (
    DsopsError,
)
from dsops.errors.bundle import (
    AccuracyGateFailed,
    BundleError,
    ContentSealed,
    ContractBroken,
    DelegateMissing,
    DigestMismatch,
    GoldenMismatch,
    IncompatibleBundle,
    InvalidModel,
    MalformedBundle,
    OperatorMissing,
    OverMemory,
    OverSize,
    RuntimeTooOld,
    TooSlow,
    UnsupportedModel,
    UntrustedBundle,
    WrongHardware,
)
from dsops.errors.device import (
    AlreadyRunning,
    DeviceError,
    NoMemory,
    NoSpace,
    NotServing,
    PortBusy,
    QueueFull,
    RuntimeCrashed,
    RuntimeMissing,
    StateDamaged,
)
from dsops.errors.request import (
    Abandoned,
    AwaitedFailure,
    Cancelled,
    Conflict,
    Forbidden,
    Interrupted,
    InvalidConfig,
    InvalidInput,
    MissingExtra,
    NotFound,
    RequestError,
    TimedOut,
    TooLarge,
    Unauthorized,
)
from dsops.errors.transport import (
    BrokerUnreachable,
    DeltaFailed,
    DeviceBarred,
    EnrolmentFull,
    EnrolmentPending,
    EnrolmentRefused,
    GraceOver,
    IdentityRefused,
    IdentityTaken,
    Overloaded,
    ServerUnreachable,
    SourceEndless,
    SourceFailed,
    SourceIgnoresRange,
    SourceLacks,
    SourceLies,
    SourceRefused,
    SourceSlow,
    SourceTruncated,
    SourceUnreachable,
    StoreUnreachable,
    TokenExpired,
    TokenUnknown,
    TokenUsed,
    TransferFailed,
    TransportError,
)
from dsops.errors.trust import (
    BelowFloor,
    DifferentTarget,
    EndlessMetadata,
    ExpiredDirective,
    ExpiredMetadata,
    ForeignDevice,
    ForeignFleet,
    ForeignReport,
    ForeignTarget,
    ForkedReport,
    IncompleteMetadata,
    LeapingDirective,
    MalformedDirective,
    MalformedMetadata,
    MalformedReport,
    MismatchedMetadata,
    OldMetadata,
    OutsideRing,
    Refusal,
    ReplayedDirective,
    ReplayedReport,
    UnknownTarget,
    UnlistedRelease,
    UnsignedDirective,
    UnsignedMetadata,
    UnsignedReport,
)

__all__ = [
    "Abandoned",
    "AccuracyGateFailed",
    "AlreadyRunning",
    "AwaitedFailure",
    "BelowFloor",
    "BrokerUnreachable",
    "BundleError",
    "Cancelled",
    "Conflict",
    "ContentSealed",
    "ContractBroken",
    "DelegateMissing",
    "DeltaFailed",
    "DeviceBarred",
    "DeviceError",
    "DifferentTarget",
    "DigestMismatch",
    "DsopsError",
    "EndlessMetadata",
    "EnrolmentFull",
    "EnrolmentPending",
    "EnrolmentRefused",
    "ExpiredDirective",
    "ExpiredMetadata",
    "Forbidden",
    "ForeignDevice",
    "ForeignFleet",
    "ForeignReport",
    "ForeignTarget",
    "ForkedReport",
    "GoldenMismatch",
    "GraceOver",
    "IdentityRefused",
    "IdentityTaken",
    "IncompatibleBundle",
    "IncompleteMetadata",
    "Interrupted",
    "InvalidConfig",
    "InvalidInput",
    "InvalidModel",
    "LeapingDirective",
    "MalformedBundle",
    "MalformedDirective",
    "MalformedMetadata",
    "MalformedReport",
    "MismatchedMetadata",
    "MissingExtra",
    "NoMemory",
    "NoSpace",
    "NotFound",
    "NotServing",
    "OldMetadata",
    "OperatorMissing",
    "OutsideRing",
    "OverMemory",
    "OverSize",
    "Overloaded",
    "PortBusy",
    "QueueFull",
    "Refusal",
    "ReplayedDirective",
    "ReplayedReport",
    "RequestError",
    "RuntimeCrashed",
    "RuntimeMissing",
    "RuntimeTooOld",
    "ServerUnreachable",
    "SourceEndless",
    "SourceFailed",
    "SourceIgnoresRange",
    "SourceLacks",
    "SourceLies",
    "SourceRefused",
    "SourceSlow",
    "SourceTruncated",
    "SourceUnreachable",
    "StateDamaged",
    "StoreUnreachable",
    "TimedOut",
    "TokenExpired",
    "TokenUnknown",
    "TokenUsed",
    "TooLarge",
    "TooSlow",
    "TransferFailed",
    "TransportError",
    "Unauthorized",
    "UnknownTarget",
    "UnlistedRelease",
    "UnsignedDirective",
    "UnsignedMetadata",
    "UnsignedReport",
    "UnsupportedModel",
    "UntrustedBundle",
    "WrongHardware",
    "every_error",
    "from_dict",
]


def every_error() -> dict[str, type[DsopsError]]:
    """Return every class of the tree by its code."""
    found: dict[str, type[DsopsError]] = {}
    todo: list[type[DsopsError]] = [DsopsError]
    while todo:
        cls = todo.pop()
        if "code" in vars(cls):  # else it is a kind of the one that has it
            found[cls.code] = cls
        todo.extend(cls.__subclasses__())
    return found


def from_dict(data: dict[str, object]) -> DsopsError:
    """Rebuild an error that crossed a process border as :meth:`DsopsError.as_dict`."""
    cls = every_error().get(str(data.get("code")), DsopsError)
    details = data.get("details")
    known = details if isinstance(details, dict) else {}
    return cls(str(data.get("message", "")), why=str(data.get("why", "")), hint=str(data.get("hint", "")), **known)
