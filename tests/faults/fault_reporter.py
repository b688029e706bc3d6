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


def records_of(first: int, moments: Moments, clock: ManualClock) -> dict[str, list[bytes]]:
    """Return a tick's records: one in 500 is an event, one in 50 a sample, the rest figures, which are alike."""
    time_us, moment = int(clock.now().timestamp() * 1e6), moments.now()

    def written(made: TelemetryRecord | SampleRecord) -> bytes:
        made.moment.CopyFrom(moment)
        return made.SerializeToString()

    host = written(TelemetryRecord(host=HostInterval(start_us=time_us, interval_ms=100)))
    kpi = written(TelemetryRecord(kpi=Kpi(time_us=time_us, name="count", value=first)))
    tensor = Tensor(datatype="UINT8", shape=[len(PIXELS)], data=PIXELS)
    records: dict[str, list[bytes]] = {"events": [], "telemetry": [], "samples": []}
    for number in range(first, first + PER_TICK):
        if number % EVENT_EVERY == 0:
            event = Event(time_us=time_us, kind="install", message=str(number))
            records["events"].append(written(TelemetryRecord(event=event)))
        elif number % 50 == 1:
            common = {"model": "digits", "digest": "ab" * 32, "reason": "random", "request_id": str(number)}
            records["samples"].append(written(SampleRecord(time_us=time_us, input=tensor, **common)))
        else:
            records["telemetry"].append(host if number % 100 < 50 else kpi)
    return records


def main() -> None:
    folder, first, hours, jump_s = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    clock = ManualClock(START + timedelta(hours=hours))
    clock.jump(jump_s)
    moments = Moments(clock)
    spool = Spool(folder, CAP, clock)
    while True:
        try:
            spool.take(Delivery(records_of(first, moments, clock)))  # type: ignore[arg-type]
        except DeviceError as error:
            print(f"failed: {error}", file=sys.stderr)
        first += PER_TICK
        clock.advance(TICK_S)
        print(first - 1, flush=True)


if __name__ == "__main__":
    main()
