"""Checks a served model against the golden inputs of its bundle."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from dsops.errors import GoldenMismatch, InvalidInput
from dsops.forms import Form
from dsops.golden import GoldenSet, TensorBytes
from dsops.golden_compare import Answers, Difference, find_differences
from dsops.manifest import Manifest, TensorSpec
from dsops_agent.runtime.answer import Answer
from dsops_agent.runtime.batches import TRIED_FRAMES, State
from dsops_agent.runtime.engine import NAMES, InputForm, ServedModel
from dsops_agent.runtime.instances import Held, Instance, Instances
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.sent import Sent

_DTYPES = {
    "float32": "<f4",
    "int32": "<i4",
    "int64": "<i8",
    "bool": "?",
    "uint8": "u1",
    "int8": "i1",
    "int16": "<i2",
}


_HANDOVER_S = 0.005
"""How long the model is left to others between turns when there is no time for more: they have to wake up for it."""


def _nothing() -> None:
    """Let a check go on to its end."""


def check_golden(
    served: ServedModel, share: float = 1.0, gentle_s: float = math.inf, still_wanted: Callable[[], None] = _nothing
) -> tuple[float, ...]:
    """Ask every golden input, run by itself; return the time of each in the interpreter, in microseconds.

    An answer is right when every value of every output lies within the output's tolerance, and what it means is right:
    the label of a classification is the golden one, a reconstruction is an anomaly when the expected one is.

    Args:
        served: The model.
        share: Of the time, how much this may take from others: after each frame it rests (:func:`rest_s`).
        gentle_s: For how long to do so; then the model is only given up after each turn, as requests do.
        still_wanted: Raises when nobody needs the answer any more; called before each frame, or turn.

    Raises:
        GoldenMismatch: One is not; it tells how many and the first.
        InvalidModel: The interpreter fails.
        MalformedBundle: The bundle's file cannot be read any more.
        DigestMismatch: It is damaged.
    """
    golden = served.golden()
    expected = _expected(golden.outputs, served.manifest.outputs)
    latency_us: list[float] = []
    differences: list[Difference] = []
    until_s = time.monotonic() + gentle_s
    for part in _parts(len(golden), served.max_frames, until_s):
        still_wanted()
        began_s = time.perf_counter()
        given = _inputs(served, golden, part)
        answer = _ask(served, given, still_wanted)
        latency_us += answer.latency_us
        differences += _differences(served.manifest, golden, expected, part, given, answer)
        time.sleep(rest_s(time.perf_counter() - began_s, share, until_s - time.monotonic(), len(golden) - part.stop))
    _refuse(differences, len(golden))
    return tuple(latency_us)


def check_instance(served: ServedModel, instance: Instance) -> None:
    """Ask an instance that serves nobody yet one golden input.

    Raises:
        GoldenMismatch: It is answered otherwise than it should.
        InvalidModel: The interpreter fails.
        MalformedBundle: The bundle's file cannot be read any more.
        DigestMismatch: It is damaged.
    """
    golden = served.golden()
    expected = _expected(golden.outputs, served.manifest.outputs)
    first = slice(0, 1)
    given = _inputs(served, golden, first)
    answer = _answer(served, given, Held(Instances(instance)))
    _refuse(_differences(served.manifest, golden, expected, first, given, answer), 1)


def time_golden(
    served: ServedModel, frames: int, most_s: float, still_wanted: Callable[[], None] = _nothing
) -> list[float]:
    """Ask golden inputs again while fewer than ``frames`` were asked in all; return the time of each, in microseconds.

    After as many seconds as ``most_s`` no more are asked, and none when ``still_wanted`` raises. For a model whose
    golden inputs were answered right just now.

    Raises:
        InvalidModel: The interpreter fails.
        DsopsError: The bundle's file cannot be read any more.
    """
    golden = served.golden()
    latency_us: list[float] = []
    until_s = time.monotonic() + most_s
    for number in range(len(golden), frames):
        if time.monotonic() >= until_s:
            break
        still_wanted()
        row = number % len(golden)
        latency_us += _ask(served, _inputs(served, golden, slice(row, row + 1)), still_wanted).latency_us
    return latency_us


def rest_s(took_s: float, share: float, left_s: float, rows_left: int) -> float:
    """Return how long to leave a model to others after a frame of a check, in seconds. Pure.

    So long that the frame took no more than its share of the time; but of the time that is left no more than what falls
    to one of the rows that are left, and nothing after the last.
    """
    if rows_left <= 0:
        return 0.0
    return max(0.0, min(took_s * (1 / share - 1), left_s / rows_left))


def try_batches(served: ServedModel) -> State:
    """Ask golden inputs many at once, and return whether the model may be run in batches.

    In a throw-away process: a model that crashes when it is resized shall do so there.
    """
    golden = served.golden()
    given, count = _inputs(served, golden, slice(None)), len(golden)
    rows = np.arange(min(max(count, TRIED_FRAMES), served.max_frames)) % count
    served.infer({name: frames[rows] for name, frames in given.items()})
    return served.batches.state


def array_of(tensor: TensorBytes) -> Array:
    """Return a golden tensor as an array."""
    values = np.frombuffer(tensor.data, _DTYPES[tensor.dtype]).reshape(tensor.shape)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _parts(count: int, most: int, gentle_until_s: float) -> Iterator[slice]:
    """Return rows to ask together: one while there is time, then all that are left, at most ``most``."""
    row = 0
    while row < count:
        size = 1 if time.monotonic() < gentle_until_s else most
        yield slice(row, min(row + size, count))
        row += size


def _differences(
    manifest: Manifest,
    golden: GoldenSet,
    expected: tuple[Array, ...],
    part: slice,
    given: Mapping[str, Array],
    answer: Answer,
) -> tuple[Difference, ...]:
    answers = Answers([given[spec.name] for spec in manifest.inputs], [one[part] for one in expected], answer.outputs)
    task, meaning = manifest.task, manifest.postprocessing
    return find_differences(golden, task, meaning, manifest.labels, answers, first_row=part.start)


def _refuse(differences: Sequence[Difference], of: int) -> None:
    if differences:
        raise GoldenMismatch(
            f"{len(differences)} of {of} golden inputs are not answered as expected",
            why=differences[0].text,
            differing=len(differences),
            of=of,
        )


def _ask(served: ServedModel, inputs: Mapping[str, Array], still_wanted: Callable[[], None]) -> Answer:
    def give_way() -> None:
        still_wanted()
        time.sleep(_HANDOVER_S)

    return _answer(served, inputs, Held(served.instances, give_way))


def _answer(served: ServedModel, inputs: Mapping[str, Array], turn: Held) -> Answer:
    try:
        return served.infer(inputs, alone=True, turn=turn)
    except InvalidInput as error:
        raise GoldenMismatch("the golden inputs do not fit the payload", why=str(error)) from error


def _inputs(served: ServedModel, golden: GoldenSet, rows: slice) -> dict[str, Array]:
    """Return golden inputs as the model takes them; real values are made of raw frames as of a caller's."""
    plain = {detail.name: detail.dtype for detail in served.loaded.inputs if not detail.is_real}
    found = {}
    for tensor in golden.inputs:
        values, form = array_of(tensor)[rows], served.forms.get(tensor.name)
        if form is not None and tensor.name in golden.raw:
            values = _prepared(form, values)
        found[tensor.name] = _as_stored(values, plain.get(tensor.name))
    return found


def _prepared(form: InputForm, values: Array) -> Array:
    try:
        kind = form.form_of(NAMES[values.dtype], values.shape, Form.RAW)
    except InvalidInput as error:
        raise GoldenMismatch("the golden inputs are not the raw frames of the manifest", why=str(error)) from error
    return form.prepared(Sent(kind, values))


def _as_stored(values: Array, dtype: np.dtype[np.generic] | None) -> Array:
    """Return values for a tensor of plain integers in its type, if it holds them; all others as they are."""
    if dtype is None or values.dtype == dtype:
        return values
    stored = values.astype(dtype)
    return stored if np.array_equal(stored, values) else values


def _expected(tensors: tuple[TensorBytes, ...], specs: tuple[TensorSpec, ...]) -> tuple[Array, ...]:
    told = [(tensor.name, tensor.shape[1:]) for tensor in tensors]
    wanted = [(spec.name, spec.shape[1:]) for spec in specs]
    if told != wanted:
        texts = [", ".join(f"{name!r} {list(shape)}" for name, shape in form) for form in (wanted, told)]
        raise GoldenMismatch(f"the payload gives {texts[0]}", why=f"the golden outputs are {texts[1]}")
    return tuple(array_of(tensor) for tensor in tensors)
