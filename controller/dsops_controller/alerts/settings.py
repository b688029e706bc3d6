"""What of ``controller.toml`` is about alerts: of what, and to whom."""

from enum import StrEnum

from pydantic import Field

from dsops.manifest import Frozen
from dsops_controller.retraining.settings import AdapterName, Webhook


class Kind(StrEnum):
    """What an alert is about."""

    DRIFT = "drift"
    """A device is at level ``drift``."""
    FLEET_DRIFT = "fleet-drift"
    """Enough devices of a model have drifted after correction for their number (e-BH)."""
    SKEW = "skew"
    """The first frames of a device were not those of the profile."""
    LOSSES = "losses"
    """A device dropped records."""
    SILENT = "silent"
    """A device that sent heartbeats sends none any more."""
    AUDITED_ERROR = "audited-error"
    """Labels of samples that were kept at random show more errors than the model had when it was built."""


class AlertSettings(Frozen):
    """Of what to tell, and whom.

    Attributes:
        kinds: Of what; none: of nothing.
        look_s: Seconds between two looks.
        clear_s: A cause must have been gone for so long before its alert is resolved.
        fdr: Share of devices that are named wrongly, of those that e-BH names, at most.
        fleet_devices: So many devices of a model must have drifted, at least.
        fleet_share: And this share of those that watch it.
        silent_s: Without a heartbeat for so long a device is silent, and for three times its own interval at least.
        losses: So many records must be dropped between two looks.
        losses_s: An alert of losses lasts so long after the last of them.
        error_margin: By how much the audited error may be above that of the build.
        notices: So many notices of one kind and model a webhook gets one by one; of more it gets one with their number.
        notices_every_s: After those, one more every so many seconds, of all that came meanwhile.
        notices_in_all: So many notices of all kinds and models together a webhook gets, and as many again within
            ``notices`` times ``notices_every_s``.
        named: Devices that a notice of many names.
        attempts: How often a webhook is tried before a notice is given up (dead letter).
        keep_days: Resolved alerts are kept for so long.
        webhook: Addresses by a name for each.
    """

    kinds: tuple[Kind, ...] = tuple(Kind)
    look_s: float = Field(default=15.0, gt=0, le=3600)
    clear_s: float = Field(default=300.0, ge=0, le=86_400)
    fdr: float = Field(default=0.05, gt=0, lt=1)
    fleet_devices: int = Field(default=3, ge=1)
    fleet_share: float = Field(default=0.02, ge=0, le=1)
    silent_s: float = Field(default=3600.0, ge=1, le=31_536_000)
    losses: int = Field(default=1, ge=1)
    losses_s: float = Field(default=3600.0, gt=0, le=2_592_000)
    error_margin: float = Field(default=0.01, gt=0, lt=1)
    notices: int = Field(default=10, ge=1, le=1000)
    notices_every_s: float = Field(default=60.0, gt=0, le=86_400)
    notices_in_all: int = Field(default=50, ge=1, le=10_000)
    named: int = Field(default=20, ge=1, le=1000)
    attempts: int = Field(default=20, ge=1, le=100)
    keep_days: float = Field(default=90.0, gt=0, le=3660)
    webhook: dict[AdapterName, Webhook] = Field(default={}, max_length=16)
