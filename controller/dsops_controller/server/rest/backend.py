"""What the routes call: the modules that own the rules."""

from collections.abc import Callable
from dataclasses import dataclass

from dsops.clock import Clock
from dsops_controller.alerts.driver import Watch
from dsops_controller.bundles import Bundles
from dsops_controller.dataops.datasets.datasets import Datasets
from dsops_controller.dataops.datasets.lineage import Lineage
from dsops_controller.dataops.drift.fleet_view import FleetView
from dsops_controller.dataops.history import History
from dsops_controller.dataops.labels.labels import Labels
from dsops_controller.dataops.lake.inspection import Inspector
from dsops_controller.dataops.lake.upkeep import Upkeep
from dsops_controller.dataops.samples.sample_reading import SampleReader
from dsops_controller.dataops.store import Store
from dsops_controller.fleet.enrolment import Enrolment
from dsops_controller.fleet.registry import Registry
from dsops_controller.fleet.sites import Sites
from dsops_controller.monitoring.figures import Monitoring
from dsops_controller.retraining.driver import Retraining
from dsops_controller.rollout.challengers import Challengers
from dsops_controller.rollout.pardons import Pardons
from dsops_controller.rollout.rollouts import Rollouts
from dsops_controller.rollout.sample_requests import SampleRequests
from dsops_controller.server.broker import BrokerFigures
from dsops_controller.server.checkup import Checkup
from dsops_controller.server.outbox import Outbox
from dsops_controller.server.overview import Overview
from dsops_controller.tracing import Tracer
from dsops_controller.trust.repository import Repository

OPERATOR = "operator"
"""Actor in the audit trail of what comes through the REST interface."""


@dataclass(frozen=True)
class Backend:
    """The parts of the controller that REST shows.

    ``wake`` has the rollout driver look now; ``mqtt`` returns the courier's figures and ``grpc_bytes`` the bytes that
    passed the gRPC interfaces.
    """

    registry: Registry
    enrolment: Enrolment
    overview: Overview
    repository: Repository
    bundles: Bundles
    rollouts: Rollouts
    challengers: Challengers
    pardons: Pardons
    sample_requests: SampleRequests
    sites: Sites
    store: Store
    history: History
    inspector: Inspector
    lake_upkeep: Upkeep
    fleet: FleetView
    watch: Watch
    monitoring: Monitoring
    samples: SampleReader
    labels: Labels
    datasets: Datasets
    lineage: Lineage
    retraining: Retraining
    tracer: Tracer
    outbox: Outbox
    checkup: Checkup
    clock: Clock
    wake: Callable[[], None]
    mqtt: Callable[[], BrokerFigures]
    grpc_bytes: Callable[[], int]
