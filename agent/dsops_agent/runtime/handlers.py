"""What the control process may ask of the data process, to activate a bundle for example, and what it answers."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

import dsops
from dsops import sealing
from dsops.errors import InvalidInput
from dsops.manifest import Frozen, Name, Sha256, first_problem
from dsops_agent.rival import Rival
from dsops_agent.runtime.channel import Header
from dsops_agent.runtime.duels import Duels
from dsops_agent.runtime.golden import check_golden
from dsops_agent.runtime.memory import resident_bytes
from dsops_agent.runtime.swap import Models, Serving
from dsops_agent.runtime.throttle import ThrottleState
from dsops_agent.runtime.wishes import SampleWish

CHECK_REST_S = 0.05
"""How long a check leaves the model to callers after each golden input at most: some models take seconds a frame."""
CHECK_GENTLE_S = 15.0
"""For how long a check does so: the control process waits for its end."""


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


class ControlRequests:
    """Answers the requests of the control process.

    Args:
        models: The active models.
        shutdown: Begins the end of the process.
        duels: Their challengers.
        throttle: Returns how requests are held back.
        settings: Digest of the settings that the process was started with.
        wish: Takes which samples somebody asked for.
    """

    def __init__(
        self,
        models: Models,
        shutdown: Callable[[], None],
        duels: Duels,
        throttle: Callable[[], ThrottleState] = ThrottleState,
        settings: str = "",
        wish: Callable[[Sequence[SampleWish]], None] = lambda wishes: None,
    ) -> None:
        self._models = models
        self._throttle = throttle
        self._settings = settings
        self._duels = duels
        self._shutdown = shutdown
        self._wish = wish
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
        check_golden(self._models.get(_parse(_Named, header).model).model, CHECK_REST_S, CHECK_GENTLE_S)
        return {}

    def _compare(self, header: Header) -> Header:
        self._duels.follow(_parse(_Compare, header).rivals)
        return {}

    def _samples(self, header: Header) -> Header:
        self._wish(_parse(_Samples, header).wishes)
        return {}

    def _status(self, header: Header) -> Header:
        _parse(_Nothing, header)
        return {
            "pid": os.getpid(),
            "version": dsops.__version__,
            "settings": self._settings,
            "models": {serving.model.name: self._figures(serving) for serving in self._models.all()},
            "rss_bytes": resident_bytes(),
            "delegate": self._models.accelerator.status(),
            "throttle": asdict(self._throttle()),
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
