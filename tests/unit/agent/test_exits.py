"""Every error has one exit code, and the docstring's table names it."""

import re

import pytest

from dsops import exits
from dsops.errors import (
    AlreadyRunning,
    AwaitedFailure,
    BrokerUnreachable,
    BundleError,
    Conflict,
    DigestMismatch,
    DsopsError,
    EnrolmentRefused,
    Interrupted,
    InvalidConfig,
    InvalidInput,
    MissingExtra,
    NoSpace,
    NotFound,
    TimedOut,
    Unauthorized,
    every_error,
)
from dsops.exits import Exit, describe, exit_code


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (InvalidConfig, 2),
        (InvalidInput, 2),
        (AwaitedFailure, 3),
        (Unauthorized, 4),
        (EnrolmentRefused, 4),
        (NotFound, 5),
        (Conflict, 6),
        (AlreadyRunning, 6),
        (BundleError, 7),
        (DigestMismatch, 7),
        (TimedOut, 8),
        (MissingExtra, 9),
        (Interrupted, 130),
        (NoSpace, 1),
        (BrokerUnreachable, 1),
        (DsopsError, 1),
    ],
)
def test_an_error_ends_with_its_code(cls: type[DsopsError], code: int) -> None:
    assert exit_code(cls("x")) == code


def test_no_error_ends_with_success() -> None:
    assert all(exit_code(cls("x")) is not Exit.DONE for cls in every_error().values())


def test_the_table_in_the_docstring_has_every_code() -> None:
    rows = re.findall(r"^    (\d+) ", exits.__doc__ or "", re.MULTILINE)
    assert [int(row) for row in rows] == sorted(Exit)


def test_describe_gives_three_lines_and_leaves_out_what_is_unknown() -> None:
    error = InvalidConfig("no\nsuch file", why="it is absent", hint="make it")
    assert describe(error).splitlines() == [
        "error[request.invalid_config]: no such file",
        "  why: it is absent",
        "  do: make it",
    ]
    assert describe(Conflict("x")) == "error[request.conflict]: x"
