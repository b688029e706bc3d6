"""What the routes call: the modules that own the rules."""

from collections.abc import Callable
from dataclasses import dataclass

from dsops.clock import Clock
from dsops_controller.bundles import Bundles
from dsops_controller.dataops.store import Store
from dsops_controller.fleet.enrolment import Enrolment
from dsops_controller.fleet.registry import Registry
from dsops_controller.fleet.sites import Sites
from dsops_controller.rollout.challengers import Challengers
from dsops_controller.rollout.pardons import Pardons
from dsops_controller.rollout.rollouts import Rollouts
from dsops_controller.rollout.sample_requests import SampleRequests
from dsops_controller.server.broker import BrokerFigures
from dsops_controller.server.checkup import Checkup
from dsops_controller.server.outbox import Outbox
from dsops_controller.server.overview import Overview
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
    outbox: Outbox
    checkup: Checkup
    clock: Clock
    wake: Callable[[], None]
    mqtt: Callable[[], BrokerFigures]
    grpc_bytes: Callable[[], int]
