"""What is wrong with what a caller asks for."""

from dsops.errors.base import DsopsError


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


class Abandoned(RequestError):
    """The caller went away before its request was run."""

    code = "request.abandoned"
    default_hint = "nothing to do"


class SampleSealed(RequestError):
    """A sample's input cannot be read with the key that is there, or without one."""

    code = "request.sample_sealed"
    default_hint = "name the private key whose public half the device has as samples.seal_to: --key FILE"
