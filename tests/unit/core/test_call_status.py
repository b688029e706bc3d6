"""The one table between our errors and the status numbers of calls."""

import grpc
import pytest

from dsops.call_status import CallStatus, error_of, status_of
from dsops.errors import (
    Abandoned,
    Conflict,
    DsopsError,
    Forbidden,
    InvalidInput,
    NotFound,
    NotServing,
    QueueFull,
    RuntimeCrashed,
    Throttled,
    TimedOut,
    TooLarge,
)


def test_the_numbers_are_those_of_grpc() -> None:
    of_grpc = {code.name: code.value[0] for code in grpc.StatusCode}
    assert {status.name: int(status) for status in CallStatus}.items() <= of_grpc.items()


@pytest.mark.parametrize("kind", [InvalidInput, NotFound, NotServing, Forbidden, Conflict, QueueFull, TimedOut])
def test_an_error_means_on_the_other_end_what_it_was(kind: type[DsopsError]) -> None:
    assert error_of(status_of(kind("it is so"))) is kind


def test_a_special_error_has_the_number_of_its_kind_and_one_of_the_agents_own_has_none() -> None:
    assert status_of(TooLarge("too large")) is CallStatus.INVALID_ARGUMENT
    assert status_of(Throttled("too hot")) is CallStatus.RESOURCE_EXHAUSTED
    assert status_of(RuntimeCrashed("it died")) is CallStatus.INTERNAL
    assert error_of(CallStatus.INTERNAL) is error_of(99) is RuntimeCrashed


def test_who_is_told_that_a_call_was_cancelled_did_not_go_away() -> None:
    assert status_of(Abandoned("gone")) is CallStatus.CANCELLED
    assert error_of(CallStatus.CANCELLED) is RuntimeCrashed
