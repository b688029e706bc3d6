"""The rollout engine: values in, decisions out. It reads no clock, database or network.

The driver calls :func:`step` until it returns nothing more; each decision is persisted before it is published, and
deciding twice from the same view gives the same decisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dsops.states import Deployment, Rollout
from dsops_controller.rollout.gates import Outcome, Result, judge


@dataclass(frozen=True)
class DeploymentView:
    """One deployment as the database and the device's newest report show it."""

    id: str
    device: str
    state: Deployment
    code: str = ""
    started_ms: int | None = None
    is_installed: bool = False
    """Whether the device already runs the bundle."""
    waited_ms: int = 0
    """How long it waited for what its own rules ask for, while it was connected."""

    @property
    def result(self) -> Result:
        """The part that gates read."""
        return Result(self.device, self.state, self.code)


@dataclass(frozen=True)
class RolloutView:
    """One rollout with its deployments by wave."""

    state: Rollout
    wave: int
    waves: Sequence[Sequence[DeploymentView]]
    max_failures: int
    timeout_s: float


@dataclass(frozen=True)
class Start:
    """Ask a device for the bundle. ``is_installed``: it runs it already."""

    deployment: str
    is_installed: bool


@dataclass(frozen=True)
class TimeOut:
    """End a deployment that took too long."""

    deployment: str


@dataclass(frozen=True)
class Promote:
    """Begin the next wave."""

    wave: int


@dataclass(frozen=True)
class Move:
    """Change the rollout's state."""

    state: Rollout
    reason: str = ""


Decision = Start | TimeOut | Promote | Move


def step(now_ms: int, view: RolloutView) -> tuple[Decision, ...]:
    """Return what to do next; nothing when there is nothing to do yet."""
    if view.state is not Rollout.RUNNING:
        return ()
    wave = view.waves[view.wave]
    late = tuple(TimeOut(d.id) for d in wave if _is_late(d, now_ms, view.timeout_s))
    if late:
        return late
    before = [d.result for earlier in view.waves[: view.wave] for d in earlier]
    verdict = judge([d.result for d in wave], before, view.max_failures)
    if verdict.outcome is Outcome.HALT:
        return (Move(Rollout.PAUSED, verdict.reason),)
    if verdict.outcome is Outcome.OPEN:
        last = view.wave + 1 == len(view.waves)
        return (Move(Rollout.SUCCEEDED) if last else Promote(view.wave + 1),)
    return tuple(Start(d.id, d.is_installed) for d in wave if d.state is Deployment.PENDING)


def _is_late(deployment: DeploymentView, now_ms: int, timeout_s: float) -> bool:
    started = deployment.started_ms
    is_open = deployment.state is Deployment.IN_PROGRESS and started is not None
    return is_open and started is not None and now_ms - started - deployment.waited_ms > timeout_s * 1000
