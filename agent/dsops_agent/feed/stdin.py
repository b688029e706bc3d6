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

from dsops.errors import InvalidInput
from dsops_agent.feed.decode import MAX_BYTES, from_json, from_raw
from dsops_agent.feed.fit import Form, batch, typed
from dsops_agent.feed.line import MAX_BATCH
from dsops_agent.feed.model import SocketModel
from dsops_agent.feed.ports import Model
from dsops_agent.feed.record import Origin, records
from dsops_agent.runtime.litert import Array

_NUMBERS = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


@dataclass(frozen=True)
class Wanted:
    """What is asked.

    Attributes:
        device: Name of this device.
        model: Name of the model.
        outputs: Outputs that answers have; none for all.
        raw: Type of raw values; empty for JSON.
        scale: Values are multiplied by it.
    """

    device: str
    model: str
    outputs: tuple[str, ...] = ()
    raw: str = ""
    scale: float = 1.0


def feed_stdin(socket: str, wanted: Wanted) -> None:
    """Answer until standard input ends.

    Raises:
        DsopsError: The model is not there.
    """
    if wanted.raw and wanted.raw not in _NUMBERS:
        raise InvalidInput(f"{wanted.raw} is no type of numbers", hint=f"one of {', '.join(_NUMBERS)}")
    model = SocketModel(socket, wanted.model, "", wanted.outputs)
    try:
        answer_all(sys.stdin.buffer, model, wanted, _print)
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
    decode = (lambda data: from_raw(data, wanted.raw, form.shape)) if wanted.raw else from_json
    for number, data in enumerate(_raw_frames(stream, form, wanted.raw) if wanted.raw else _lines(stream)):
        origin = Origin(wanted.device, "stdin", wanted.model, str(number), datetime.now(UTC))
        try:
            frames = typed(batch(decode(data), form), form, wanted.scale, 0.0)
            _answer(model, frames, origin, say)
        except InvalidInput as error:
            say(json.dumps({"id": f"stdin/{number}", "error": error.code, "message": f"{error}"}).encode())


def _answer(model: Model, frames: Array, origin: Origin, say: Callable[[bytes], None]) -> None:
    for first in range(0, len(frames), MAX_BATCH):
        answered = model.ask(frames[first : first + MAX_BATCH])
        for answer in records(answered, origin, first, is_alone=len(frames) == 1):
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
