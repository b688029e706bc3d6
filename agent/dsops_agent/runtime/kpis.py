"""Figures that programs on the device report, checked, stamped with what serves, and handed on as telemetry.

A program reports what it knows and no model does, for example parts rejected. The figure bears the release and digest
that served its model in that moment. So many go in the long run, so many at once: what is more is refused, and told.
"""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dsops import ids
from dsops.api.v1.telemetry_pb2 import Kpi, TelemetryRecord
from dsops.clock import Clock
from dsops.errors import InvalidInput, QueueFull
from dsops_agent.runtime.collect import Identity, micros

PER_S = 20.0
BURST = 200
MAX_UNIT_CHARS = 64
MAX_TAGS = 16
MAX_TAG_CHARS = 128


@dataclass(frozen=True)
class Figure:
    """What a program reports.

    Attributes:
        name: What it measured.
        value: A finite number.
        unit: UCUM code; empty for none.
        model: An active model that it is about; empty for none.
        tags: What tells figures of one name apart.
    """

    name: str
    value: float
    unit: str = ""
    model: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class Kpis:
    """Takes figures. Safe to call from several threads.

    Args:
        served: Returns what serves a model, or raises NotFound or NotServing.
        put: Takes a serialized TelemetryRecord.
        clock: Tells the time.
    """

    def __init__(self, served: Callable[[str], Identity], put: Callable[[bytes], None], clock: Clock) -> None:
        self._served = served
        self._put = put
        self._clock = clock
        self._lock = threading.Lock()
        self._level, self._since_s = float(BURST), clock.monotonic_s()

    def report(self, figure: Figure) -> None:
        """Take one figure.

        Raises:
            InvalidInput: A name, the value, the unit or a tag is not valid.
            NotFound: The model is not active.
            NotServing: No model is.
            QueueFull: Too many were reported lately.
        """
        _check(figure)
        about = self._served(figure.model) if figure.model else Identity("", 0, "")
        self._spend()
        kpi = Kpi(
            time_us=micros(self._clock.now()),
            name=figure.name,
            value=figure.value,
            unit=figure.unit,
            model=about.model,
            release=about.release,
            digest=about.digest,
            tags=figure.tags,
        )
        self._put(TelemetryRecord(kpi=kpi).SerializeToString())

    def _spend(self) -> None:
        with self._lock:
            now_s = self._clock.monotonic_s()
            self._level = min(float(BURST), self._level + (now_s - self._since_s) * PER_S)
            self._since_s = now_s
            if self._level < 1:
                wait_s = (1 - self._level) / PER_S
                raise QueueFull(
                    "too many figures were reported",
                    why=f"{PER_S:.0f} a second are taken, {BURST} at once",
                    hint=f"report again in {wait_s:.2f} s, or add figures up and report them less often",
                )
            self._level -= 1


def _check(figure: Figure) -> None:
    ids.kpi_name(figure.name)
    if not math.isfinite(figure.value):
        raise InvalidInput(f"figure {figure.name} has the value {figure.value}", why="a figure is a finite number")
    if len(figure.unit) > MAX_UNIT_CHARS:
        raise InvalidInput(f"the unit of {figure.name} is too long", why=f"it has up to {MAX_UNIT_CHARS} characters")
    if len(figure.tags) > MAX_TAGS:
        raise InvalidInput(f"figure {figure.name} has {len(figure.tags)} tags", why=f"it may have {MAX_TAGS}")
    for key, value in figure.tags.items():
        if not 0 < len(key) <= MAX_TAG_CHARS or len(value) > MAX_TAG_CHARS:
            raise InvalidInput(
                f"tag {key[:MAX_TAG_CHARS]!r} of figure {figure.name} is not valid",
                why=f"names and values of tags have up to {MAX_TAG_CHARS} characters",
            )
