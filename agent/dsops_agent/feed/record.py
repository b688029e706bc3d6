"""Answers as JSON: one line a frame."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from dsops_agent.feed.ports import Answer, Answered
from dsops_agent.runtime.litert import Array


@dataclass(frozen=True)
class Origin:
    """Where frames come from.

    Attributes:
        device: Name of this device.
        source: Name of the source.
        model: Name of the model.
        batch_id: Names the frames; several are told apart by ``#`` and a number.
        time: When they came.
    """

    device: str
    source: str
    model: str
    batch_id: str
    time: datetime

    def name(self, number: int, *, is_alone: bool) -> str:
        """Return what a frame is called."""
        return f"{self.source}/{self.batch_id}" + ("" if is_alone else f"#{number}")

    def request_id(self, first: int, *, is_alone: bool) -> str:
        """Return what a request is called: as its first frame; names of files may hold what is no text."""
        return self.name(first, is_alone=is_alone).encode(errors="backslashreplace").decode()


def records(answered: Answered, origin: Origin, first: int, *, is_alone: bool) -> Iterator[Answer]:
    """Return an answer for each frame.

    Args:
        answered: What the model answered.
        origin: Where the frames come from.
        first: Number of the first of these frames.
        is_alone: Whether there are no other ones, so that it needs no number.
    """
    count = max((len(values) for values in answered.outputs.values()), default=0)
    for number in range(count):
        name = origin.name(first + number, is_alone=is_alone)
        record = {
            "id": name,
            "device": origin.device,
            "source": origin.source,
            "model": origin.model,
            "release": answered.release,
            "digest": answered.digest,
            "time": origin.time.isoformat(),
            "outputs": {output: plain(values[number]) for output, values in answered.outputs.items()},
        }
        text = json.dumps(record, allow_nan=False, separators=(",", ":"))
        yield Answer(name, origin.source, origin.model, text.encode())


def plain(values: Array) -> object:
    """Return an array, or one value of it, as JSON can hold it: what is not finite is null."""
    return _finite(values.tolist())


def _finite(value: object) -> object:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
