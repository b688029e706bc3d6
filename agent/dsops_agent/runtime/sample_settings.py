"""Which samples are kept, and what of them leaves the device."""

from typing import Annotated

from pydantic import Field

from dsops_agent.drift.sampler import SamplerSettings

MAX_TIMEOUT_S = 60.0
Share = Annotated[float, Field(ge=0, le=1)]


Region = tuple[Share, Share, Share, Share]
"""A rectangle of a picture, in shares of its width and height: left, top, right, bottom."""


class SampleSettings(SamplerSettings):
    """What is kept, and what of it leaves the device.

    Attributes:
        inputs: Whether inputs do; without them a sample has what the model answered, and figures.
        redact: Parts of pictures that are blanked before a frame is kept.
        redact_command: Program with its arguments that takes things out of a frame.
        redact_timeout_s: How long it may take a frame.
        redaction: What is called so; empty: as the regions, or the program, are.
        seal_to: Public key of the only ones who may read inputs, base64; empty: the store may.
    """

    inputs: bool = False
    redact: tuple[Region, ...] = Field(default=(), max_length=32)
    redact_command: tuple[str, ...] = Field(default=(), max_length=32)
    redact_timeout_s: float = Field(default=5.0, gt=0, le=MAX_TIMEOUT_S)
    redaction: str = Field(default="", max_length=64)
    seal_to: str = Field(default="", pattern=r"^([A-Za-z0-9+/]{43}=)?$")

    @property
    def redaction_name(self) -> str:
        """What a sample's record says was taken out."""
        programs = [self.redact_command[0].rpartition("/")[2]] if self.redact_command else []
        return self.redaction or " and ".join([*(["regions"] if self.redact else []), *programs])
