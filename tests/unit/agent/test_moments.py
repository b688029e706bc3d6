"""Moments: which start of the host, which monotonic time, and what the wall clock is worth."""

from dsops.api.v1.samples_pb2 import SampleRecord
from dsops.api.v1.telemetry_pb2 import ClockTrust, Event, Moment, TelemetryRecord
from dsops.clock import ManualClock, SystemClock
from dsops_agent.boot import boot_id
from dsops_agent.moment import Moments, kernel_trust

BOOT = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def free() -> ClockTrust.ValueType:
    return ClockTrust.CLOCK_FREE


def server_us(clock: ManualClock, ahead_s: float = 0.0) -> int:
    return int((clock.now().timestamp() + ahead_s) * 1e6)


def test_this_host_says_what_it_knows() -> None:
    moment = Moments(SystemClock()).now()
    assert moment.boot.hex() == boot_id().replace("-", "")
    assert moment.monotonic_us > 0
    assert moment.clock == kernel_trust() or moment.clock in ClockTrust.values()


def test_a_clock_that_a_service_keeps_needs_no_store() -> None:
    moments = Moments(ManualClock(), BOOT, lambda: ClockTrust.CLOCK_SYNCHRONISED)
    assert moments.now().clock == ClockTrust.CLOCK_SYNCHRONISED


def test_a_free_clock_is_checked_by_the_store_until_it_jumps() -> None:
    clock = ManualClock()
    moments = Moments(clock, BOOT, free)
    assert moments.now().clock == ClockTrust.CLOCK_FREE
    moments.heard(0)
    assert moments.now().clock == ClockTrust.CLOCK_FREE
    moments.heard(server_us(clock, 3.0))
    clock.advance(1e6)
    assert moments.now().clock == ClockTrust.CLOCK_CHECKED
    clock.jump(-3600.0)
    assert moments.now().clock == ClockTrust.CLOCK_FREE
    moments.heard(server_us(clock, 3600.0))
    assert moments.now().clock == ClockTrust.CLOCK_FREE
    clock.jump(3600.0)
    assert moments.now().clock == ClockTrust.CLOCK_FREE
    moments.heard(server_us(clock))
    assert moments.now().clock == ClockTrust.CLOCK_CHECKED


def test_a_serialized_record_is_given_its_moment() -> None:
    clock = ManualClock()
    clock.advance(2.5)
    moments = Moments(clock, BOOT, free)
    event = TelemetryRecord(event=Event(kind="install", time_us=7))
    expected = Moment(boot=bytes(range(16)), monotonic_us=2_500_000, clock=ClockTrust.CLOCK_FREE)
    read = TelemetryRecord.FromString(moments.appended(TelemetryRecord, event.SerializeToString()))
    assert (read.event, read.moment) == (event.event, expected)
    sample = SampleRecord(reason="random")
    assert SampleRecord.FromString(moments.appended(SampleRecord, sample.SerializeToString())).moment == expected


def test_a_host_without_a_name_for_its_start_has_an_empty_one() -> None:
    assert Moments(ManualClock(), "", free).now().boot == b""
