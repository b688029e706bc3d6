"""``dsops-agent feed --stdin MODEL``: frames on standard input, answers as lines of JSON on standard output.

A line of JSON is a frame, or several. Raw values are cut into frames by their length. A frame that cannot be asked
about is an answer as well, with ``error`` instead of ``outputs``, so that the numbers of both stay the same.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

import numpy as np

from dsops.errors import InvalidInput, RuntimeCrashed
from dsops_agent.feed.decode import MAX_BYTES, from_json, from_raw
from dsops_agent.feed.fit import Form, Frames, batch, typed
from dsops_agent.feed.frames import meant
from dsops_agent.feed.line import MAX_BATCH
from dsops_agent.feed.model import SocketModel
from dsops_agent.feed.patience import PatientModel
from dsops_agent.feed.ports import Model
from dsops_agent.feed.record import Origin, records

_NUMBERS = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


@dataclass(frozen=True)
class Wanted:
    """What is asked.

    Attributes:
        device: Name of this device.
        model: Name of the model.
        outputs: Outputs that answers have; none for all.
        raw: Type of raw values; empty for JSON.
        scale: Values are multiplied by it; None says nothing.
        form: What they are: ``raw``, ``real``; empty where the model and the other settings tell.
        key: Who or what asks, in every request; empty: each request is one by itself.
    """

    device: str
    model: str
    outputs: tuple[str, ...] = ()
    raw: str = ""
    scale: float | None = None
    form: str = ""
    key: str = ""

    @property
    def offset(self) -> float:
        """What is added to the values: nothing."""
        return 0.0


def feed_stdin(socket: str, wanted: Wanted) -> None:
    """Answer until standard input ends, waiting while the model is away or busy.

    Raises:
        DsopsError: There is no such model, or it may not be asked.
    """
    if wanted.form not in ("", "raw", "real"):
        raise InvalidInput(f"{wanted.form} is no form of frames", hint="raw or real")
    if wanted.raw and wanted.raw not in _NUMBERS:
        raise InvalidInput(f"{wanted.raw} is no type of numbers", hint=f"one of {', '.join(_NUMBERS)}")
    model = SocketModel(socket, wanted.model, "", wanted.outputs)
    try:
        answer_all(sys.stdin.buffer, PatientModel(model), wanted, _print)
    finally:
        model.close()


def _print(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def answer_all(stream: BinaryIO, model: Model, wanted: Wanted, say: Callable[[bytes], None]) -> None:
    """Answer every frame of a stream, in order.

    Raises:
        DsopsError: The model is not there.
    """
    form = model.form()
    cut = meant(form, wanted, np.dtype(wanted.raw) if wanted.raw else None)
    for number, data in enumerate(_raw_frames(stream, cut, wanted.raw) if wanted.raw else _lines(stream)):
        origin = Origin(wanted.device, "stdin", wanted.model, str(number), datetime.now(UTC))
        try:
            _answer(model, _frames(data, cut, model.form(), wanted), origin, wanted, say)
        except (InvalidInput, RuntimeCrashed) as error:  # the frame's fault: the next one may be answered
            say(json.dumps({"id": f"stdin/{number}", "error": error.code, "message": f"{error}"}).encode())


def _frames(data: bytes, cut: Form, form: Form, wanted: Wanted) -> Frames:
    values = from_raw(data, wanted.raw, cut.shape) if wanted.raw else from_json(data)
    found = meant(form, wanted, values.dtype if wanted.raw else None)
    return Frames(typed(batch(values, found), found, 1.0 if wanted.scale is None else wanted.scale, 0.0), found)


def _answer(model: Model, frames: Frames, origin: Origin, wanted: Wanted, say: Callable[[bytes], None]) -> None:
    is_alone = len(frames) == 1
    for first in range(0, len(frames), MAX_BATCH):
        request_id = origin.request_id(first, is_alone=is_alone)
        key = wanted.key or f"{wanted.device}/{request_id}"
        answered = model.ask(frames[first : first + MAX_BATCH], request_id, key)
        for answer in records(answered, origin, first, is_alone=is_alone):
            say(answer.record)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline(MAX_BYTES):
        if line.strip():
            yield line


def _raw_frames(stream: BinaryIO, form: Form, kind: str) -> Iterator[bytes]:
    if any(length < 1 for length in form.shape):
        raise InvalidInput(f"input {form.name} has no fixed shape, so raw values cannot be cut into frames")
    size = np.dtype(kind).itemsize * int(np.prod(form.shape, dtype=np.int64))
    while data := stream.read(size):
        yield data
