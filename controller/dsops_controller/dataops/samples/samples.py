"""Samples as rows for people and as arrays for training."""

import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

from dsops.errors import InvalidInput, MissingExtra, NotFound
from dsops_controller.dataops.lake.scope import EPOCH, Scope

MAX_EXPORT_SAMPLES = 200_000
MAX_EXPORT_BYTES = 1 << 30
_NUMPY_OF = {
    "BOOL": "?",
    "INT8": "<i1",
    "UINT8": "<u1",
    "INT16": "<i2",
    "UINT16": "<u2",
    "FP16": "<f2",
    "INT32": "<i4",
    "UINT32": "<u4",
    "FP32": "<f4",
    "INT64": "<i8",
    "UINT64": "<u8",
    "FP64": "<f8",
}


@dataclass(frozen=True, slots=True)
class SampleFilter:
    """Which samples: ``None`` means any."""

    model: str | None = None
    device: str | None = None
    reason: str | None = None
    release: int | None = None
    since: datetime | None = None
    until: datetime | None = None

    def scope(self) -> Scope:
        """Return it as bounds on files."""
        return Scope(self.since, self.until, self.model, self.device)

    def params(self) -> dict[str, Any]:
        """Return it as parameters of a statement."""
        return self.scope().params() | {"reason": self.reason, "release": self.release}


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One sample without its tensors.

    Attributes:
        id: ``device/stream/seq``, the identity of the record.
        time: When the request was answered, by the device's clock.
        score: By which the sample was chosen.
        inclusion: Probability with which such a frame is kept, 0 when unknown.
        datatype: Open Inference Protocol name of the input's type.
        shape: Shape of the input as the caller sent it.
        input_bytes: Length of the input.
    """

    id: str
    device: str
    model: str
    release: int
    digest: str
    time: datetime
    reason: str
    score: float | None
    inclusion: float | None
    request_id: str
    predicted: str
    datatype: str
    shape: tuple[int, ...]
    input_bytes: int


def sample_row(row: Sequence[Any]) -> SampleRow:
    """Return a sample from the columns that the statements on samples begin with."""
    device, stream_id, seq, model, release, digest, time_us, *rest, shape, input_bytes = row
    reason, score, inclusion, request_id, predicted, datatype = rest
    return SampleRow(
        id=f"{device}/{stream_id}/{seq}",
        device=device,
        model=model,
        release=release,
        digest=digest,
        time=EPOCH + timedelta(microseconds=time_us),
        reason=reason,
        score=score,
        inclusion=inclusion,
        request_id=request_id,
        predicted=predicted,
        datatype=datatype,
        shape=tuple(shape),
        input_bytes=input_bytes,
    )


def npz(samples: Sequence[tuple[SampleRow, bytes]], labels: Sequence[str] = ()) -> bytes:
    """Return samples as a NumPy archive (``.npz``, compressed, no pickles).

    Arrays, all of length n: ``x`` float32 [n, ...] (a leading axis of length 1, a batch of one frame, is dropped),
    ``id``, ``device``, ``reason``, ``predicted``, ``request_id``, ``digest`` text, ``time_us`` int64 (microseconds
    since 1970 UTC), ``release`` int64, ``score`` float64 (NaN when unknown). With ``labels``, one a sample, also
    ``label`` text; empty where there is none.

    Raises:
        NotFound: There are no samples.
        InvalidInput: Their inputs differ in type or shape, or are text.
        MissingExtra: NumPy is not installed.
    """
    if not samples:
        raise NotFound("no sample matches", hint="see which there are: dsops sample list")
    if without := sum(not data for _, data in samples):
        raise InvalidInput(
            f"{without} of {len(samples)} samples have no input that can be read",
            why="their devices keep inputs to themselves, or seal them",
            hint="see inputs and seal_to in the section samples of agent.toml",
        )
    forms = {(row.datatype, row.shape) for row, _ in samples}
    if len(forms) > 1:
        first, second = sorted(forms)[:2]
        raise InvalidInput(
            "the samples' inputs differ and cannot stand in one array",
            why=f"{first[0]} {list(first[1])} and {second[0]} {list(second[1])}",
            hint="choose one model and release",
        )
    datatype, shape = forms.pop()
    if datatype not in _NUMPY_OF:
        raise InvalidInput("the samples' inputs are not numbers", why=f"their type is {datatype}")
    np = _numpy()
    arrays = _arrays(np, [row for row, _ in samples], [data for _, data in samples], (_NUMPY_OF[datatype], shape))
    if labels:
        arrays["label"] = np.array(labels, np.str_)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _arrays(
    np: ModuleType, rows: Sequence[SampleRow], inputs: Sequence[bytes], form: tuple[str, tuple[int, ...]]
) -> dict[str, Any]:
    dtype, shape = form
    frame = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
    x = np.empty((len(rows), *frame), np.float32)
    for index, data in enumerate(inputs):
        x[index] = np.frombuffer(data, dtype).reshape(frame)
    texts = {name: [getattr(row, name) for row in rows] for name in _TEXTS}
    arrays: dict[str, Any] = {name: np.array(values, np.str_) for name, values in texts.items()}
    arrays["x"] = x
    arrays["time_us"] = np.array([_epoch_us(row.time) for row in rows], np.int64)
    arrays["release"] = np.array([row.release for row in rows], np.int64)
    arrays["score"] = np.array([float("nan") if row.score is None else row.score for row in rows], np.float64)
    return arrays


_TEXTS = ("id", "device", "reason", "predicted", "request_id", "digest")


def _epoch_us(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000)


def _numpy() -> ModuleType:
    try:
        return importlib.import_module("numpy")
    except ImportError as error:
        raise MissingExtra(
            "samples cannot be exported as arrays", why="NumPy is not installed", hint="pip install 'dsops[build]'"
        ) from error
