"""What monitoring systems are told: sums over the fleet by model, release and state, few enough to keep for years."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from dsops.clock import Clock
from dsops.states import Device
from dsops_controller.alerts.alerts import Alerts
from dsops_controller.dataops.drift.tally import DriftTally, tally
from dsops_controller.dataops.lake.totals import BundleTotal, Total, totals
from dsops_controller.db import alert_tables, tables
from dsops_controller.db.database import Database
from dsops_controller.db.sums import whole_sum
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.server.broker import BrokerFigures


@dataclass(frozen=True)
class ReleaseTotal:
    """What a release did on all devices, whatever the variant, since it was heard of; see :class:`BundleTotal`."""

    model: str
    release: int
    since: datetime
    answers: int
    errors: int
    unobserved: int
    latency: Total
    confidence: Total


@dataclass(frozen=True)
class FleetFigures:
    """The fleet now.

    Attributes:
        time: When they were read.
        since: Since when what is stored adds up: the first entry of the audit trail, which never changes.
        devices: Devices by state; ``online`` of them are connected.
        drift: Devices by model and how drift stands on them.
        records: Records stored since the beginning by kind of stream.
        produced: Records that devices made; of those they dropped ``lost``, by kind and reason.
        waiting: Batches in the inbox, their bytes, and the seconds that the oldest waits for a flush.
        releases: Totals of each release.
        alerts: Open alerts by kind; ``notices`` by state.
        broker: The courier's figures.
        grpc_bytes: Bytes that passed the gRPC interfaces since the start.
    """

    time: datetime
    since: datetime
    devices: Mapping[str, int]
    online: int
    drift: DriftTally
    records: Mapping[str, int]
    produced: int
    lost: Mapping[tuple[str, str], int]
    waiting: tuple[int, int, float]
    releases: Sequence[ReleaseTotal]
    alerts: Mapping[str, int]
    notices: Mapping[str, int]
    broker: BrokerFigures
    grpc_bytes: int


class Monitoring:
    """Reads the figures, from the state database alone.

    Args:
        db: The state database.
        alerts: The alerts.
        clock: Tells the time.
        broker: Returns the courier's figures.
        grpc_bytes: Returns the bytes that passed the gRPC interfaces.
        fdr: Of e-BH.
    """

    def __init__(
        self,
        db: Database,
        alerts: Alerts,
        clock: Clock,
        broker: Callable[[], BrokerFigures],
        grpc_bytes: Callable[[], int],
        fdr: float,
    ) -> None:
        self._db = db
        self._alerts = alerts
        self._clock = clock
        self._broker = broker
        self._grpc_bytes = grpc_bytes
        self._fdr = fdr

    def figures(self) -> FleetFigures:
        """Return the figures.

        Raises:
            StateDamaged: The database cannot be read.
        """
        now = self._clock.now()
        device, stream, loss = tables.device.c, tables.stream.c, tables.stream_loss.c
        with self._db.read() as connection:
            drift = tally(connection, self._fdr, now)
            states = connection.execute(select(device.state, func.count()).group_by(device.state)).all()
            here = select(func.count()).where((device.state == Device.ACCEPTED) & device.online)
            online = connection.execute(here).scalar_one()
            kinds = connection.execute(
                select(stream.kind, whole_sum(stream.stored), whole_sum(stream.produced)).group_by(stream.kind)
            ).all()
            by_reason = select(loss.kind, loss.reason, whole_sum(loss.count)).group_by(loss.kind, loss.reason)
            lost = connection.execute(by_reason).all()
            column = tables.inbox.c
            size = func.coalesce(func.sum(func.length(column.payload)), 0)
            rows, total, first_ms = connection.execute(
                select(func.count(column.id), size, func.min(column.received_ms))
            ).one()
            notice = alert_tables.alert_delivery.c
            begun_ms = connection.execute(select(func.min(tables.audit.c.time_ms))).scalar_one()
            notices = connection.execute(select(notice.state, func.count()).group_by(notice.state)).all()
        return FleetFigures(
            time=now,
            since=now if begun_ms is None else min(from_ms(begun_ms), now),
            devices={state.value: 0 for state in Device} | {state: int(count) for state, count in states},
            online=int(online),
            drift=drift,
            records={kind: int(stored) for kind, stored, _ in kinds},
            produced=sum(int(produced) for _, _, produced in kinds),
            lost={(kind, reason): int(count) for kind, reason, count in lost},
            waiting=(int(rows), int(total), 0.0 if first_ms is None else max((to_ms(now) - first_ms) / 1000, 0.0)),
            releases=_by_release(totals(self._db)),
            alerts=self._alerts.counts(),
            notices={state: int(count) for state, count in notices},
            broker=self._broker(),
            grpc_bytes=self._grpc_bytes(),
        )


def _by_release(found: Sequence[BundleTotal]) -> list[ReleaseTotal]:
    grouped: dict[tuple[str, int], list[BundleTotal]] = {}
    for one in found:
        grouped.setdefault((one.model, one.release), []).append(one)
    return [_release(model, release, rows) for (model, release), rows in grouped.items()]


def _release(model: str, release: int, rows: Sequence[BundleTotal]) -> ReleaseTotal:
    latency, confidence = Total(), Total()
    for one in rows:
        latency.pour(one.latency)
        confidence.pour(one.confidence)
    return ReleaseTotal(
        model=model,
        release=release,
        since=min(one.since for one in rows),
        answers=sum(one.answers for one in rows),
        errors=sum(one.errors for one in rows),
        unobserved=sum(one.unobserved for one in rows),
        latency=latency,
        confidence=confidence,
    )
