"""Makes records of the frames that the sampler keeps: what may leave the device of them, and for whom.

A record has one input and one output: the first input as the caller sent it, if inputs may leave the device at all,
and the probabilities of a classification or else the first output. A reconstruction's output shows the input, and goes
only where the input goes as it is; figures that are the input's own values do not go without it either.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dsops import sample_sealing, strictjson
from dsops.api.v1 import samples_pb2
from dsops.clock import Clock
from dsops.errors import NotRedacted
from dsops.manifest import Manifest, Task
from dsops.signals import features_of
from dsops_agent.drift.likeness import alike, print_of
from dsops_agent.drift.sampler import Frame, Kept, Sampler
from dsops_agent.runtime.answer import Answer, Exchange, named_choice
from dsops_agent.runtime.collect import Identity, micros
from dsops_agent.runtime.engine import DTYPES
from dsops_agent.runtime.litert import Array
from dsops_agent.runtime.records import Reason
from dsops_agent.runtime.redaction import blank, run_program
from dsops_agent.runtime.sample_budgets import SampleBudgets
from dsops_agent.runtime.sample_settings import SampleSettings
from dsops_agent.runtime.wishes import Wishes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

logger = logging.getLogger(__name__)

MAX_SAMPLE_BYTES = (1 << 20) - (8 << 10)
"""A larger sample is never kept: it would not fit into a batch of 1 MiB on its way to the store."""
RECORD_BYTES = 512
"""What names, digests, times and figures of a sample take besides its tensors, about."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def at_once(work: Callable[[], None]) -> bool:
    """Do something that takes long in the thread that has it to do."""
    work()
    return True


def unnoted(_reason: Reason) -> None:
    """Take no note of a sample that cannot be kept."""


@dataclass(frozen=True)
class Sampling:
    """How samples are kept.

    Attributes:
        settings: Which, and what of them leaves the device.
        chance: Gives a random number in [0, 1).
        later: Lets another thread do something that takes long; False when it has too much to do.
        budgets: What each model may spend, whatever release of it answers.
        wishes: Knows what somebody asked for.
        lose: Told of each sample that was chosen and cannot be kept.
    """

    settings: SampleSettings
    chance: Callable[[], float]
    budgets: SampleBudgets
    later: Callable[[Callable[[], None]], bool] = at_once
    wishes: Wishes | None = None
    lose: Callable[[Reason], None] = unnoted


@dataclass(frozen=True)
class Seen:
    """What is known of a frame besides its tensors.

    Attributes:
        frame: What the sampler is told.
        figures: Its signals.
        number: Which frame of the drift monitor's it is.
    """

    frame: Frame
    figures: Mapping[str, float]
    number: int = 0


@dataclass(frozen=True)
class _Content:
    """A frame that may be kept, in memory of its own; ``input`` is None where inputs stay on the device."""

    time_us: int
    request_id: str
    input: Array | None
    output: Array | None
    predicted: str
    figures: Mapping[str, float]
    print: object
    number: int


class SampleKeeper:
    """Keeps samples of one bundle. Safe to call from several threads.

    Args:
        manifest: The bundle's.
        identity: Which bundle it is.
        sampling: What is kept, and what of it leaves the device.
        put: Takes each finished record.
        clock: Tells the time.
    """

    def __init__(
        self,
        manifest: Manifest,
        identity: Identity,
        sampling: Sampling,
        put: Callable[[bytes], None],
        clock: Clock,
    ) -> None:
        settings = sampling.settings
        self._manifest = manifest
        self._identity = identity
        self._settings = settings
        self._put = put
        self._clock = clock
        self._later = sampling.later
        self._lose = sampling.lose
        self._schema = schema_of(manifest)
        self._features = features_of(manifest.inputs)
        self._is_plain = settings.inputs and not settings.redaction_name and not settings.seal_to
        self._key = sample_sealing.public_key(settings.seal_to) if settings.seal_to else None
        self._sampler: Sampler[_Content] = Sampler(
            settings, sampling.chance, sampling.budgets.of(identity.model), _print, alike
        )
        self._lock = threading.Lock()
        self._wishes = sampling.wishes
        self.wish()

    def wish(self) -> None:
        """Keep frames for those who ask for some now, and for nobody else."""
        wanted = self._wishes.of(self._identity.model) if self._wishes else ()
        with self._lock:
            self._sampler.want(wanted)

    def size_bytes(self, exchange: Exchange) -> int:
        """Return the size of a sample of an exchange."""
        output = self._output(exchange.answer)
        size = RECORD_BYTES + (0 if output is None else output[:1].nbytes)
        return size + self._input(exchange)[:1].nbytes if self._settings.inputs else size

    def see(self, exchange: Exchange, seen: Sequence[Seen]) -> list[int]:
        """Take note of the frames of an exchange; return the numbers of those that were kept at once.

        Args:
            exchange: What was asked and answered.
            seen: What is known of each frame besides.
        """
        kept: list[int] = []
        for row, one in enumerate(seen):
            if one.frame.size_bytes > MAX_SAMPLE_BYTES:
                continue
            with self._lock:
                wished = self._sampler.offer(one.frame, lambda row=row, one=one: self._content(exchange, row, one))  # type: ignore[misc]
            if wished is not None:
                kept.append(one.number)
                if self._wishes:
                    self._wishes.served(wished.requested_by)
                self._finish(wished)
        return kept

    def disputed(self, exchange: Exchange, row: int, distance: float) -> bool:
        """Keep a frame that the challenger answered otherwise, if the budget allows; say whether it does."""
        now_s, size_bytes = self._clock.monotonic_s(), self.size_bytes(exchange)
        if size_bytes > MAX_SAMPLE_BYTES:
            return False
        seen = Seen(Frame(now_s, size_bytes), {})
        with self._lock:
            kept = self._sampler.disputed(now_s, size_bytes, distance, lambda: self._content(exchange, row, seen))
        if kept is not None:
            self._finish(kept)
        return kept is not None

    def release(self, *, is_end: bool = False) -> list[int]:
        """Put the samples of periods that are over; return the numbers of their frames."""
        with self._lock:
            kept = self._sampler.release(self._clock.monotonic_s(), is_end=is_end)
        for one in kept:
            self._finish(one)
        return [one.content.number for one in kept]

    def _content(self, exchange: Exchange, row: int, seen: Seen) -> _Content:
        answer = exchange.answer
        choices, output = answer.decision.choices, self._output(answer)
        frame = self._input(exchange)[row : row + 1]
        own = {name: value for name, value in seen.figures.items() if self._is_plain or name not in self._features}
        return _Content(
            time_us=micros(self._clock.now()),
            request_id=exchange.request_id,
            input=self._without_regions(frame) if self._settings.inputs else None,
            output=None if output is None else np.array(output[row : row + 1]),
            predicted="" if choices is None else named_choice(self._manifest, int(choices[row])),
            figures=own,
            number=seen.number,
            print=print_of(frame[0]) if self._settings.deduplicate and frame.dtype.kind in "fiub" else None,
        )

    def _without_regions(self, frame: Array) -> Array | None:
        """Return a copy of a frame whose regions are blank; None when it is no picture, and nothing may be kept."""
        if not self._settings.redact:
            return np.array(frame)
        name = self._manifest.inputs[0].name
        layouts = {one.input: one.layout for one in self._manifest.preprocessing}
        try:
            return blank(frame, self._settings.redact, channels_first=layouts.get(name) == "NCHW")
        except NotRedacted as error:
            logger.warning("no sample of %s can be kept: %s", self._identity.model, error)
            return None

    def _input(self, exchange: Exchange) -> Array:
        return exchange.inputs[self._manifest.inputs[0].name]

    def _output(self, answer: Answer) -> Array | None:
        if self._manifest.task is Task.CLASSIFICATION:
            return answer.scores
        return None if self._manifest.task is Task.RECONSTRUCTION and not self._is_plain else answer.outputs[0]

    def _finish(self, kept: Kept[_Content]) -> None:
        """Put the record of a frame, at once or, where a program has to see it first, a little later."""
        if self._settings.inputs and kept.content.input is None:
            self._lose(Reason.UNREDACTED)
            return
        if not (self._settings.inputs and self._settings.redact_command):
            self._put(self._record(kept, kept.content.input))
        elif not self._later(lambda: self._redact(kept)):
            logger.warning("a sample of %s is not kept: the program that redacts is too slow", self._identity.model)
            self._lose(Reason.UNREDACTED)

    def _redact(self, kept: Kept[_Content]) -> None:
        frame = kept.content.input
        assert frame is not None
        settings = self._settings
        try:
            clean = run_program(settings.redact_command, frame, _NAMES[frame.dtype], settings.redact_timeout_s)
        except NotRedacted as error:
            logger.warning("a sample of %s is not kept: %s", self._identity.model, error)
            self._lose(Reason.UNREDACTED)
            return
        self._put(self._record(kept, clean))

    def _record(self, kept: Kept[_Content], frame: Array | None) -> bytes:
        content, identity = kept.content, self._identity
        record = samples_pb2.SampleRecord(
            time_us=content.time_us,
            model=identity.model,
            release=identity.release,
            digest=identity.digest,
            reason=kept.reason.value,
            score=kept.score,
            inclusion=kept.inclusion,
            weight=kept.weight,
            repeats=kept.repeats,
            request_id=content.request_id,
            predicted=content.predicted,
            schema=self._schema,
            scores=content.figures,
            requested_by=kept.requested_by,
        )
        if content.output is not None:
            record.output.CopyFrom(_tensor(content.output))
        if frame is not None:
            record.redaction = self._settings.redaction_name
            record.input.CopyFrom(_tensor(frame))
            if self._key is not None:
                _seal(record, self._key)
        return record.SerializeToString()


def schema_of(manifest: Manifest) -> str:
    """Return the SHA-256 of what decides what an input and an output mean: the tensors, and how they are read."""
    named = manifest.model_dump(
        mode="json", include={"task", "labels", "inputs", "outputs", "preprocessing", "postprocessing"}
    )
    return hashlib.sha256(strictjson.dumps(named)).hexdigest()


def _seal(record: samples_pb2.SampleRecord, key: "X25519PublicKey") -> None:
    """Move the input's data where only the key's owner can read them."""
    tensor = record.input
    record.sealed.key_id = sample_sealing.key_id(key)
    record.sealed.ciphertext = sample_sealing.seal(
        tensor.data, key, record.digest, record.time_us, tensor.datatype, list(tensor.shape)
    )
    tensor.ClearField("data")


def _print(content: _Content) -> object:
    return content.print


def _tensor(values: Array) -> samples_pb2.Tensor:
    """Return a frame's tensor for the wire, its batch axis of 1 included."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return samples_pb2.Tensor(datatype=_NAMES[values.dtype], shape=values.shape, data=little.tobytes())
