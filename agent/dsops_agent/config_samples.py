"""The part of the agent's configuration that says which samples are kept, and what of them leaves the device."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from dsops_agent.config_values import DAY_S, Section


def _region(sides: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = sides
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError("a region is [left, top, right, bottom], in shares of width and height from 0 to 1")
    return sides


Region = Annotated[tuple[float, float, float, float], AfterValidator(_region)]


class WatchRule(Section):
    """Frames that are worth more than others as samples."""

    classes: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        default=(), max_length=64, description="what the model takes the frame for; empty: anything"
    )
    above: float = Field(default=0.0, ge=0, le=1, description="least confidence of such a frame")
    below: float = Field(default=1.01, ge=0, le=1.01, description="confidence that it does not reach")
    weight: float = Field(gt=0, le=1000, description="how many times as likely it is kept")


class Samples(Section):
    """Which inputs the device keeps for the next training, within a budget of bytes."""

    inputs: bool = Field(
        default=False,
        description="whether inputs leave the device; false: samples have only what the model answered, and figures",
    )
    bytes_per_day: int = Field(default=5_000_000, ge=0, description="budget of bytes a day; 0 keeps none")
    burst_bytes: int = Field(default=500_000, ge=0, description="budget that may be spent at once")
    random_rate: float = Field(
        default=0.01, ge=0, le=1, description="share of all frames that is kept at random, if the budget allows"
    )
    uncertain_below: float = Field(
        default=1.0, ge=0, le=1, description="a frame of at least this confidence is never kept as uncertain"
    )
    min_gap_s: float = Field(
        default=1.0, ge=0, le=DAY_S, description="least time between two samples for the same reason"
    )
    period_s: float = Field(
        default=900.0, ge=0, le=DAY_S, description="time among whose frames the samples are chosen, and sent after it"
    )
    deduplicate: bool = Field(default=True, description="whether frames that are nearly identical count as one")
    watch: tuple[WatchRule, ...] = Field(default=(), max_length=16, description="frames that are worth more")
    redact: tuple[Region, ...] = Field(
        default=(),
        max_length=32,
        description="regions of pictures that are blanked before a frame is kept, each [left, top, right, bottom] in "
        "shares of width and height",
    )
    redact_command: tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...] = Field(
        default=(),
        max_length=32,
        description="program and arguments that read a frame's bytes and write it without what must not leave the "
        "device; without its answer the frame is not kept",
    )
    redact_timeout_s: float = Field(default=5.0, gt=0, le=60, description="longest time that it may take for a frame")
    redaction: str = Field(
        default="", max_length=64, description="name of the redaction in the sample's record; empty: made of the above"
    )
    seal_to: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9+/]{43}=)?$",
        description="public key of the only ones who may read inputs, as `dsops sample keygen` prints it; empty: "
        "whoever may read the store",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "Samples":
        for rule in self.watch:
            if rule.above >= rule.below:
                raise ValueError("a rule of watch has above that is not less than below, and is about no frame")
        if self.redaction and not (self.redact or self.redact_command):
            raise ValueError("redaction names what redact or redact_command take out, and there is neither")
        return self
