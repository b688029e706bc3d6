"""The part of the agent's configuration that says what the device reports, and how much of it goes out."""

from pydantic import Field

from dsops_agent.config_values import DAY_S, Section
from dsops_agent.telemetry.allowance import UploadRules


class Telemetry(Section):
    """What the device reports, and how much it keeps while nobody takes it."""

    interval_s: float = Field(
        default=10.0, gt=0, le=DAY_S, description="length of an interval that one record describes"
    )
    spool_bytes: int = Field(default=16 << 20, ge=1 << 20, description="size of the spool; all of it is taken at once")
    retry_max_s: float = Field(
        default=60.0, gt=0, le=DAY_S, description="longest wait between two tries to reach the store"
    )
    heartbeat_s: float = Field(default=30.0, gt=0, le=DAY_S, description="how often the device says that it lives")
    upload_bytes_per_s: int = Field(default=0, ge=0, description="rate at which records go out; 0: no limit")
    upload_bytes_per_day: int = Field(
        default=0,
        ge=0,
        description="records of a day that go out, in bytes; samples may use three quarters of it, and events always "
        "go; 0: no limit",
    )
    metered: tuple[str, ...] = Field(
        default=(),
        description="network interfaces that cost by the byte, over which samples wait and telemetry goes compressed "
        'and seldom, for example ["wwan*", "ppp0"]',
    )
    metered_every_s: float = Field(
        default=600.0, ge=0, le=DAY_S, description="how often telemetry goes over such an interface at most"
    )

    def upload_rules(self) -> UploadRules:
        """Return what the uploaders are held to."""
        return UploadRules(self.upload_bytes_per_s, self.upload_bytes_per_day, self.metered_every_s)
