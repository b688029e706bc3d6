"""What the control process may ask of the data process, to activate a bundle for example, and what it answers."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

import dsops
from dsops import sealing
from dsops.errors import InvalidInput, RuntimeBusy
from dsops.manifest import Frozen, Name, Sha256, first_problem
from dsops_agent.rival import Rival
from dsops_agent.runtime.admission import ended
from dsops_agent.runtime.channel import Header
from dsops_agent.runtime.duels import Duels
from dsops_agent.runtime.golden import check_golden, time_golden
from dsops_agent.runtime.memory import resident_bytes
from dsops_agent.runtime.swap import Models, Serving
from dsops_agent.runtime.throttle import ThrottleState
from dsops_agent.runtime.wishes import SampleWish

CHECK_SHARE = 0.1
"""Of the time, how much a check takes from callers; a device that answers often has not half of its time to spare."""
CHECK_GENTLE_S = 15.0
"""For how long a check does so: the control process waits for its end."""
TIMED_FRAMES, TIMED_S = 20, 5.0
"""So many golden inputs of a model with a latency budget are asked, again if there are fewer, and no longer than that.

A device whose delegate serves one process has proved the latency nowhere, and if no program asks, this is all that
probation judges it by: of 18 that all take too long it is certain.
"""


class _Activate(Frozen):
    model: Name
    path: Annotated[str, Field(min_length=1)]
    digest: Sha256
    release: int


class _Named(Frozen):
    model: Name


class _Compare(Frozen):
    rivals: dict[Name, Rival] = Field(max_length=16)


class _Samples(Frozen):
    wishes: tuple[SampleWish, ...] = Field(max_length=16)


class _Nothing(Frozen):
    pass


Request = TypeVar("Request", bound=Frozen)


@dataclass(frozen=True)
class Process:
    """What requests need of the process around them.

    Attributes:
        throttle: Returns how requests are held back.
        settings: Digest of the settings that it was started with.
        is_ending: Tells whether it ends.
        wish: Takes which samples somebody asked for.
    """

    throttle: Callable[[], ThrottleState] = ThrottleState
    settings: str = ""
    is_ending: Callable[[], bool] = bool
    wish: Callable[[Sequence[SampleWish]], None] = lambda wishes: None


class ControlRequests:
    """Answers the requests of the control process.

    Args:
        models: The active models.
        shutdown: Begins the end of the process.
        duels: Their challengers.
        process: The rest of the process.
    """

    def __init__(
        self,
        models: Models,
        shutdown: Callable[[], None],
        duels: Duels,
        process: Process | None = None,
    ) -> None:
        self._process = process or Process()
        self._models = models
        self._duels = duels
        self._shutdown = shutdown
        self._operations: Mapping[str, Callable[[Header], Header]] = {
            "deactivate": self._deactivate,
            "check": self._check,
            "compare": self._compare,
            "samples": self._samples,
            "status": self._status,
            "shutdown": self._end,
        }

    def handle(self, op: str, header: Header, body: bytes) -> tuple[Header, bytes]:
        """Answer one request; the handler of a channel. The body of ``activate`` is the key of a sealed bundle.

        Raises:
            InvalidInput: The operation is unknown or its header is not valid.
            DsopsError: The operation failed.
        """
        if op == "activate":
            self._activate(header, body)
            return {}, b""
        operation = self._operations.get(op)
        if operation is None:
            known = ", ".join(("activate", *self._operations))
            raise InvalidInput(f"the runtime has no operation {op[:64]!r}", why=f"it has {known}")
        return operation(header), b""

    def _activate(self, header: Header, body: bytes) -> None:
        wanted = _parse(_Activate, header)
        key = sealing.ContentKey(body) if body else None
        self._models.activate(wanted.model, Path(wanted.path), wanted.digest, wanted.release, key)

    def _deactivate(self, header: Header) -> Header:
        self._models.deactivate(_parse(_Named, header).model)
        return {}

    def _check(self, header: Header) -> Header:
        serving = self._models.get(_parse(_Named, header).model)

        def wanted() -> None:
            self._check_wanted(serving)

        serving.health.checked(check_golden(serving.model, CHECK_SHARE, CHECK_GENTLE_S, wanted))
        if serving.model.manifest.budgets.max_latency_ms:
            serving.health.checked(time_golden(serving.model, TIMED_FRAMES, TIMED_S, wanted))
        return {}

    def _check_wanted(self, checked: Serving) -> None:
        if self._process.is_ending():
            raise ended()
        if not any(serving is checked for serving in self._models.all()):
            raise RuntimeBusy(f"release {checked.model.release} no longer answers", why="its check was given up")

    def _compare(self, header: Header) -> Header:
        self._duels.follow(_parse(_Compare, header).rivals)
        return {}

    def _samples(self, header: Header) -> Header:
        self._process.wish(_parse(_Samples, header).wishes)
        return {}

    def _status(self, header: Header) -> Header:
        _parse(_Nothing, header)
        return {
            "pid": os.getpid(),
            "version": dsops.__version__,
            "settings": self._process.settings,
            "models": {serving.model.name: self._figures(serving) for serving in self._models.all()},
            "rss_bytes": resident_bytes(),
            "delegate": self._models.accelerator.status(),
            "throttle": asdict(self._process.throttle()),
        }

    def _figures(self, serving: Serving) -> dict[str, object]:
        return {
            "digest": serving.model.digest,
            "release": serving.model.release,
            **asdict(serving.watch.totals),
            "health": serving.health.figures().model_dump(mode="json"),
        }

    def _end(self, header: Header) -> Header:
        _parse(_Nothing, header)
        self._shutdown()
        return {}


def _parse(form: type[Request], header: Header) -> Request:
    try:
        return form.model_validate(header)
    except ValidationError as error:
        raise InvalidInput("the request to the runtime is not valid", why=first_problem(error)) from error
