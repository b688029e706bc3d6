"""Exit codes: one catalogue for both command-line programs.

Code, meaning, and the errors that end a program with it:

    0    done
    1    failed: any other error
    2    usage: wrong arguments, configuration or input file       InvalidConfig, InvalidInput
    3    what was awaited ended, but not well                      AwaitedFailure
    4    authentication                                            Unauthorized, EnrolmentRefused
    5    not found                                                 NotFound
    6    conflict                                                  Conflict, AlreadyRunning
    7    verification failed                                       BundleError and everything below it
    8    timed out; what was awaited goes on                       TimedOut
    9    an optional part of the distribution is missing           MissingExtra
    130  interrupted                                               Interrupted
"""

from enum import IntEnum

from dsops.errors import (
    AlreadyRunning,
    AwaitedFailure,
    BundleError,
    Conflict,
    DsopsError,
    EnrolmentRefused,
    Interrupted,
    InvalidConfig,
    InvalidInput,
    MissingExtra,
    NotFound,
    TimedOut,
    Unauthorized,
)


class Exit(IntEnum):
    """How a program ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    AWAITED_FAILURE = 3
    AUTHENTICATION = 4
    NOT_FOUND = 5
    CONFLICT = 6
    VERIFICATION = 7
    TIMED_OUT = 8
    MISSING_EXTRA = 9
    INTERRUPTED = 130


_BY_ERROR: dict[type[DsopsError], Exit] = {
    InvalidConfig: Exit.USAGE,
    InvalidInput: Exit.USAGE,
    AwaitedFailure: Exit.AWAITED_FAILURE,
    Unauthorized: Exit.AUTHENTICATION,
    EnrolmentRefused: Exit.AUTHENTICATION,
    NotFound: Exit.NOT_FOUND,
    Conflict: Exit.CONFLICT,
    AlreadyRunning: Exit.CONFLICT,
    BundleError: Exit.VERIFICATION,
    TimedOut: Exit.TIMED_OUT,
    MissingExtra: Exit.MISSING_EXTRA,
    Interrupted: Exit.INTERRUPTED,
}


def exit_code(error: DsopsError) -> Exit:
    """Return the exit code of an error: that of the nearest class in the catalogue, or ``FAILED``."""
    for cls in type(error).__mro__:
        if cls in _BY_ERROR:
            return _BY_ERROR[cls]
    return Exit.FAILED


def describe(error: DsopsError) -> str:
    """Return the lines that a program prints for an error: what happened, why, and what to do.

    A line whose content is not known is left out. Line breaks inside a text become spaces.
    """
    lines = [f"error[{error.code}]: {_one_line(error.what)}"]
    if error.why:
        lines.append(f"  why: {_one_line(error.why)}")
    if error.hint:
        lines.append(f"  do: {_one_line(error.hint)}")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
