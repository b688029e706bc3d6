"""The part of the agent's configuration that says how programs on the device ask for inference."""

import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from dsops_agent.config_values import Loopback, LoopbackOrSocket, Section, User, uid_of


class DelegateSection(Section):
    """An accelerator for the models; where it cannot be used, the processor does its work, and that is reported."""

    library: str = Field(min_length=1, description="shared library of the delegate, for example libedgetpu.so.1")
    name: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9._-]{0,31})?$",
        description="what bundles call it, for example edgetpu; empty: as its library is called",
    )
    options: dict[str, str] = Field(default_factory=dict, description="options that it is made with, a table of texts")
    operators: tuple[Annotated[str, Field(min_length=1, max_length=80)], ...] = Field(
        default=(), description='custom operators that it brings, for example ["edgetpu-custom-op"]; no others may run'
    )
    exclusive: bool = Field(
        default=False,
        description="whether it serves one process at a time, as an Edge TPU does: candidates are then proved, and "
        "challengers run, on the processor",
    )

    @model_validator(mode="after")
    def _has_a_name(self) -> "DelegateSection":
        if not self.called:
            raise ValueError("its library has no name that bundles could use: set name")
        return self

    @property
    def called(self) -> str:
        """What bundles call it: its name, or what stands between ``lib`` and ``.so`` in that of its library."""
        found = re.fullmatch(r"(?:lib)?([a-z0-9][a-z0-9_-]{0,31})\.so(\.[0-9]+)*", Path(self.library).name)
        return self.name or (found[1] if found else "")

    def as_json(self) -> str:
        """Return it as the data process takes it."""
        return json.dumps(self.model_dump(mode="json") | {"name": self.called})


class Inference(Section):
    """How programs on this device ask for inference."""

    socket: Path = Field(default=Path(), description="Unix socket of the Open Inference Protocol; empty: in `run`")
    grpc: Loopback = Field(
        default="", description="loopback address, for example 127.0.0.1:8001, that answers gRPC too; empty: none"
    )
    rest: LoopbackOrSocket = Field(
        default="",
        description="loopback address, for example 127.0.0.1:8000, or path of a Unix socket, that answers REST; "
        "empty: none",
    )
    allow: tuple[User, ...] = Field(
        default=(),
        max_length=32,
        description='users who may ask, by name or number, for example ["camera", "1001"]; empty: the agent\'s group',
    )
    queue: int = Field(default=16, ge=0, le=256, description="requests of one model that may wait; more are refused")
    threads: int = Field(default=1, ge=1, le=64, description="threads of each interpreter")
    instances: int = Field(
        default=0,
        ge=0,
        le=16,
        description="requests of one model that may be answered at once, each by an interpreter of its own, which is "
        "made when callers wait and memory allows; 0: as the processors, `threads` and `cpu_percent` allow, 4 at most",
    )
    cpus: tuple[Annotated[int, Field(ge=0, le=4095)], ...] = Field(
        default=(), max_length=256, description="processors for the inference process, for example [0, 1]; empty: all"
    )
    nice: int = Field(default=0, ge=0, le=19, description="how far other processes go before the inference process")
    delegate: DelegateSection | None = Field(default=None, description="an accelerator for the models")
    max_temperature_c: float = Field(
        default=0.0, ge=0, description="while the device is hotter, inference may use a tenth of a core; 0: no limit"
    )
    cpu_percent: float = Field(
        default=0.0,
        ge=0,
        le=6400,
        description="percent of one core that all inference may use, drift and samples included; requests beyond it "
        "wait a moment, or are refused, and challengers get what champions leave of it; 0: no limit",
    )
    challenger_wait_s: float = Field(
        default=0.25, gt=0, le=60, description="longest wait for a challenger's answer; then the champion answers"
    )

    def uids(self) -> tuple[int, ...]:
        """Return the users who may ask."""
        return tuple(map(uid_of, self.allow))
