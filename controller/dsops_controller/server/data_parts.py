"""The data half of the controller's parts: the lake and what reads it, labels, data sets, retraining and alerts."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dsops.clock import Clock
from dsops_controller.alerts.alerts import Alerts
from dsops_controller.alerts.deliveries import Deliveries
from dsops_controller.alerts.driver import Watch, Watched
from dsops_controller.audit import SYSTEM, Audit
from dsops_controller.bundles import Bundles
from dsops_controller.dataops.bundle_facts import BundleFacts
from dsops_controller.dataops.datasets.datasets import Datasets
from dsops_controller.dataops.datasets.lineage import Lineage
from dsops_controller.dataops.drift.fleet_view import FleetView
from dsops_controller.dataops.history import LakeHistory
from dsops_controller.dataops.inbox import Inbox
from dsops_controller.dataops.labels.labels import Labels
from dsops_controller.dataops.lake.inspection import Inspector
from dsops_controller.dataops.lake.lake import Lake
from dsops_controller.dataops.lake.pins import Pins
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.dataops.samples.sample_reading import SampleReader
from dsops_controller.dataops.store import LakeStore
from dsops_controller.db.database import Database
from dsops_controller.retraining.adapters import Adapters
from dsops_controller.retraining.driver import Data, Retraining
from dsops_controller.server.config import ServerConfig
from dsops_controller.server.rest.backend import Backend


@dataclass(frozen=True)
class DataParts:
    """What keeps data, and what answers from it."""

    lake: Lake
    upkeep: Upkeep
    inbox: Inbox
    store: LakeStore
    history: LakeHistory
    inspector: Inspector
    fleet: FleetView
    samples: SampleReader
    labels: Labels
    datasets: Datasets
    lineage: Lineage
    retraining: Retraining
    watch: Watch

    def backend(self) -> partial[Backend]:
        """Return what makes the backend of REST when it is given the other half."""
        return partial(
            Backend,
            store=self.store,
            history=self.history,
            inspector=self.inspector,
            lake_upkeep=self.upkeep,
            watch=self.watch,
            fleet=self.fleet,
            samples=self.samples,
            labels=self.labels,
            datasets=self.datasets,
            lineage=self.lineage,
            retraining=self.retraining,
        )


def assemble_data(folder: Path, config: ServerConfig, db: Database, bundles: Bundles, clock: Clock) -> DataParts:
    """Build the parts over the lake that the configuration names.

    Raises:
        InvalidConfig: The lake's place cannot be used.
    """
    lake = Lake(db, config.lake_place(folder, clock))
    store, pins, lineage = LakeStore(db, lake), Pins(lake, clock), Lineage(db, clock)
    samples = SampleReader(db, store)
    labels = Labels(db, samples.rows, clock)
    datasets = Datasets(db, lake, samples, labels, clock)
    deliver = Adapters(folder, clock).deliver
    alerts, notices = Alerts(config.fleet, db, clock), Deliveries(config.fleet, db, clock)
    return DataParts(
        lake=lake,
        upkeep=_upkeep(lake, config, db, clock),
        inbox=Inbox(db, clock),
        store=store,
        history=LakeHistory(db, lake),
        inspector=Inspector(db, lake, pins),
        fleet=FleetView(db, lake, BundleFacts(bundles)),
        samples=samples,
        labels=labels,
        datasets=datasets,
        lineage=lineage,
        retraining=Retraining(config.fleet, Data(db, datasets, labels), config.retraining, deliver, clock),
        watch=Watch(Watched(db, bundles, labels), alerts, notices, config.alerts, deliver, clock),
    )


def _upkeep(lake: Lake, config: ServerConfig, db: Database, clock: Clock) -> Upkeep:
    trail = Audit(db, clock)

    def record(action: str, subject: str, detail: str) -> None:
        trail.record(SYSTEM, action, subject, detail)

    return Upkeep(lake, Pins(lake, clock), clock, config.retention.rules(), record=record)
