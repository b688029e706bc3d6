"""Settings of the data process, as the control process hands them over."""

from typing import Annotated

from pydantic import Field, ValidationError

from dsops import strictjson
from dsops.errors import InvalidConfig
from dsops.manifest import Frozen, first_problem
from dsops_agent.drift.report import ReportSettings
from dsops_agent.runtime.delegate import Delegate
from dsops_agent.runtime.sample_settings import SampleSettings
from dsops_agent.temperature import ANY


class RuntimeSettings(Frozen):
    """How the data process works.

    Attributes:
        socket: Path of the inference socket; empty is ``inference.sock`` in the run folder.
        control_socket: Path of the control socket; empty is ``control.sock`` in the run folder.
        grpc: Loopback address, host:port, where gRPC is answered as well; empty for none.
        rest: Loopback address, or path of a Unix socket, where REST is answered; empty for none.
        allow: Users who may use the sockets; empty is the group of the process.
        private: Whether nobody but the user of the process may use them.
        queue: Requests of one model that may wait.
        threads: Threads of each interpreter.
        instances: Interpreters of each model that may run at once; 0: as the processors allow.
        cpus: Processors to run on; none named: all.
        nice: By how much other processes go first, as nice(2) says.
        delegate: An accelerator to use.
        interval_s: Length of a telemetry interval.
        samples: Which inputs are kept, and what of them leaves the device.
        drift_enabled: Whether drift is measured.
        reports: When drift is reported, and what is done to the counts.
        max_temperature_c: Above it inference is held back; 0 for no limit.
        temperature_sensor: Pattern of the sensors that count.
        cpu_percent: Share of one core that inference may use; challengers get what this process leaves. 0: no limit.
        orphan_grace_s: How long to go on without a control process.
        challenger_wait_s: How long a request that a challenger shall answer waits for it.
        shadow: Whether it only answers copies of requests: it leaves the processor to everybody else, and reports
            nothing, for nobody gets its answers.
    """

    socket: str = ""
    control_socket: str = ""
    grpc: str = ""
    rest: str = ""
    allow: tuple[Annotated[int, Field(ge=0, lt=0xFFFFFFFF)], ...] = Field(default=(), max_length=32)
    private: bool = False
    queue: int = Field(default=16, ge=0, le=256)
    threads: int = Field(default=1, ge=1, le=64)
    instances: int = Field(default=0, ge=0, le=16)
    cpus: tuple[Annotated[int, Field(ge=0, le=4095)], ...] = Field(default=(), max_length=256)
    nice: int = Field(default=0, ge=0, le=19)
    delegate: Delegate | None = None
    interval_s: float = Field(default=10.0, gt=0)
    samples: SampleSettings = SampleSettings()
    drift_enabled: bool = True
    reports: ReportSettings = ReportSettings()
    max_temperature_c: float = Field(default=0.0, ge=0)
    temperature_sensor: str = ANY
    cpu_percent: float = Field(default=0.0, ge=0)
    orphan_grace_s: float = Field(default=30.0, gt=0)
    challenger_wait_s: float = Field(default=0.25, gt=0)
    shadow: bool = False

    @classmethod
    def parse(cls, text: str) -> "RuntimeSettings":
        """Read settings from JSON.

        Raises:
            InvalidConfig: They are not valid; the text names the key.
        """
        try:
            return cls.model_validate(strictjson.loads(text.encode()))
        except strictjson.JsonRefused as error:
            raise InvalidConfig("the runtime's settings are not JSON", why=str(error)) from error
        except ValidationError as error:
            raise InvalidConfig("the runtime's settings are not valid", why=first_problem(error)) from error
