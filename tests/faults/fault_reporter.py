"""A device that reports ten records a second and is offline, in time that is made: run by the harness, killed by it.

Usage: fault_reporter.py FOLDER FIRST_NUMBER HOURS_BEFORE JUMP_S. Each line that it prints is the number of the newest
record that is durable.
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dsops.api.v1.samples_pb2 import SampleRecord, Tensor
from dsops.api.v1.telemetry_pb2 import Event, HostInterval, Kpi, TelemetryRecord
from dsops.clock import ManualClock
from dsops.errors import DeviceError
from dsops_agent.moment import Moments
from dsops_agent.telemetry.spool import Delivery, Spool

CAP = 8 << 20
START = datetime(2026, 1, 1, tzinfo=UTC)
TICK_S = 60.0
PER_TICK = 600
EVENT_EVERY = 500
PIXELS = bytes(256)


def record(number: int, clock: ManualClock) -> tuple[str, TelemetryRecord | SampleRecord]:
    """Return the record of a number: one in 500 is an event, one in 50 a sample, the rest figures."""
    time_us = int(clock.now().timestamp() * 1e6)
    if number % EVENT_EVERY == 0:
        return "events", TelemetryRecord(event=Event(time_us=time_us, kind="install", message=str(number)))
    if number % 50 == 1:
        tensor = Tensor(datatype="UINT8", shape=[len(PIXELS)], data=PIXELS)
        return "samples", SampleRecord(
            time_us=time_us, model="digits", digest="ab" * 32, reason="random", input=tensor, request_id=str(number)
        )
    if number % 2:
        return "telemetry", TelemetryRecord(host=HostInterval(start_us=time_us, interval_ms=100))
    return "telemetry", TelemetryRecord(kpi=Kpi(time_us=time_us, name="count", value=number))


def main() -> None:
    folder, first, hours, jump_s = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    clock = ManualClock(START + timedelta(hours=hours))
    clock.jump(jump_s)
    moments = Moments(clock)
    spool = Spool(folder, CAP, clock)
    number = first
    while True:
        records: dict[str, list[bytes]] = {"events": [], "telemetry": [], "samples": []}
        moment = moments.now()
        for number in range(first, first + PER_TICK):
            kind, made = record(number, clock)
            made.moment.CopyFrom(moment)
            records[kind].append(made.SerializeToString())
        try:
            spool.take(Delivery(records))  # type: ignore[arg-type]
        except DeviceError as error:
            print(f"failed: {error}", file=sys.stderr)
        first += PER_TICK
        clock.advance(TICK_S)
        print(number, flush=True)


if __name__ == "__main__":
    main()
