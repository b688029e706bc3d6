"""States of installs, deployments, rollouts and devices, and which of them are final."""

from enum import StrEnum

from dsops.errors import Cancelled, IncompatibleBundle


class Install(StrEnum):
    """Where a device is with one bundle."""

    IDLE = "idle"  # nothing to do
    RECEIVED = "received"  # a directive names a bundle
    TRUSTED = "trusted"  # signatures, policy and preflight allow it
    FETCHING = "fetching"  # chunks are coming
    VERIFIED = "verified"  # every byte is there and is what was signed
    STAGED = "staged"  # durable in the free slot
    PROVED = "proved"  # gave the expected answers in a throw-away process
    ACTIVATING = "activating"  # the runtime is changing over
    PROBATION = "probation"  # answers requests; may still be rolled back
    COMMITTED = "committed"  # permanent
    REJECTED = "rejected"  # refused; nothing changed
    ROLLING_BACK = "rolling_back"  # going back to the bundle before
    ROLLED_BACK = "rolled_back"  # the bundle before answers again
    FAILED = "failed"  # could not go on and could not go back

    @property
    def is_final(self) -> bool:
        """Whether the install has ended."""
        return self in _INSTALL_FINAL


_INSTALL_FINAL = frozenset({Install.IDLE, Install.COMMITTED, Install.REJECTED, Install.ROLLED_BACK, Install.FAILED})


class Deployment(StrEnum):
    """One bundle to one device, as operators see it."""

    PENDING = "pending"  # not yet asked for
    IN_PROGRESS = "in_progress"  # asked for; the device is on its way
    SUCCEEDED = "succeeded"  # the device committed it
    ALREADY_INSTALLED = "already_installed"  # the device ran it before it was asked
    INCOMPATIBLE = "incompatible"  # not for this hardware or runtime
    REJECTED = "rejected"  # the device refused it
    ROLLED_BACK = "rolled_back"  # the device went back
    FAILED = "failed"  # the device could neither go on nor back
    TIMED_OUT = "timed_out"  # no final state in time
    ABORTED = "aborted"  # the rollout ended first

    @property
    def is_final(self) -> bool:
        """Whether the deployment has ended."""
        return self not in {Deployment.PENDING, Deployment.IN_PROGRESS}

    @property
    def is_success(self) -> bool:
        """Whether the device runs the bundle."""
        return self in {Deployment.SUCCEEDED, Deployment.ALREADY_INSTALLED}


class Rollout(StrEnum):
    """A plan over a cohort."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"  # a gate or an operator stopped it; it can go on
    SUCCEEDED = "succeeded"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"

    @property
    def is_final(self) -> bool:
        """Whether the rollout has ended."""
        return self in {Rollout.SUCCEEDED, Rollout.ABORTED, Rollout.ROLLED_BACK}


class Device(StrEnum):
    """Whether a device belongs to the fleet."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    SUSPENDED = "suspended"
    REJECTED = "rejected"
    DECOMMISSIONED = "decommissioned"


_INCOMPATIBLE = frozenset({IncompatibleBundle.code, *(cls.code for cls in IncompatibleBundle.__subclasses__())})


def deployment_state(install: Install, error_code: str) -> Deployment:
    """Return how operators see what a device reports of an install.

    Args:
        install: The state that the device reports.
        error_code: Code of the error that ended it, or empty.
    """
    if install is Install.REJECTED and error_code in _INCOMPATIBLE:
        return Deployment.INCOMPATIBLE
    if install is Install.REJECTED and error_code == Cancelled.code:
        return Deployment.ABORTED
    return {
        Install.COMMITTED: Deployment.SUCCEEDED,
        Install.REJECTED: Deployment.REJECTED,
        Install.ROLLED_BACK: Deployment.ROLLED_BACK,
        Install.FAILED: Deployment.FAILED,
    }.get(install, Deployment.IN_PROGRESS)
