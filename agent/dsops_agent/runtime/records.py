"""Records on their way to the control process: a bounded buffer that lets go of them only when they are confirmed.

When it is full a new record is lost, and counted; what waits already is never replaced, so that a batch which is sent
again is the same batch. Telemetry has room of its own: samples cannot crowd it out.
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

BATCH_BYTES = 512 * 1024
"""A batch ends with the record that would exceed this, and has at least one."""


class Kind(StrEnum):
    """What a record is; each kind is a stream of its own in the spool."""

    TELEMETRY = "telemetry"
    SAMPLES = "samples"


class Reason(StrEnum):
    """Why a record never was handed over."""

    LOST = "lost"
    """There was no room for it."""
    UNREDACTED = "unredacted"
    """What must not leave the device could not be taken out of it."""


CAPACITY_BYTES = {Kind.TELEMETRY: 1 << 20, Kind.SAMPLES: 4 << 20}


@dataclass(frozen=True)
class Batch:
    """Records as they are sent.

    Attributes:
        number: 1 for the first batch of this process; a batch that is sent again has the number that it had.
        kinds: Kind of each record.
        records: Serialized messages.
        lost: Records lost since the batch before, by kind and reason; kinds without loss are left out.
    """

    number: int
    kinds: tuple[Kind, ...]
    records: tuple[bytes, ...]
    lost: Mapping[Kind, Mapping[Reason, int]]

    def header(self, source: str) -> dict[str, object]:
        """Return the fields of the ``records`` request.

        ``source`` and ``batch`` together name the batch, so that a receiver which stored it but whose answer was lost
        can tell that it comes again.
        """
        return {
            "kinds": [kind.value for kind in self.kinds],
            "sizes": [len(record) for record in self.records],
            "source": source,
            "batch": self.number,
            "lost": {
                kind.value: {reason.value: count for reason, count in counts.items()}
                for kind, counts in self.lost.items()
            },
        }


class RecordBuffer:
    """Holds records until they are confirmed. Safe to use from several threads; one of them sends."""

    def __init__(self, capacity_bytes: Mapping[Kind, int] = CAPACITY_BYTES) -> None:
        self._capacity = capacity_bytes
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Kind, bytes]] = deque()
        self._bytes = dict.fromkeys(Kind, 0)
        self._lost: dict[Kind, Counter[Reason]] = {}
        self._under_way: Batch | None = None
        self._number = 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are not confirmed yet."""
        return sum(self._bytes.values())

    @property
    def waiting(self) -> int:
        """Records that are not confirmed yet."""
        return len(self._waiting)

    def add(self, kind: Kind, record: bytes) -> bool:
        """Take a serialized record; False when there was no room and it is lost."""
        with self._lock:
            if self._bytes[kind] + len(record) > self._capacity[kind]:
                self._lose(kind, Reason.LOST)
                return False
            self._waiting.append((kind, record))
            self._bytes[kind] += len(record)
            return True

    def lose(self, kind: Kind, reason: Reason) -> None:
        """Count a record that will never be handed over."""
        with self._lock:
            self._lose(kind, reason)

    def batch(self) -> Batch | None:
        """Return the batch to send: the one under way until it is confirmed, then the next; None when there is none."""
        with self._lock:
            if self._under_way is None:
                self._under_way = self._next_batch()
            return self._under_way

    def confirm(self, batch: Batch) -> None:
        """Let go of a batch that the receiver has stored."""
        with self._lock:
            if batch is not self._under_way:
                raise ValueError(f"batch {batch.number} is not under way")
            for _ in batch.records:
                kind, record = self._waiting.popleft()
                self._bytes[kind] -= len(record)
            self._under_way = None

    def _lose(self, kind: Kind, reason: Reason) -> None:
        self._lost.setdefault(kind, Counter())[reason] += 1

    def _next_batch(self) -> Batch | None:
        lost = self._lost
        if not self._waiting and not lost:
            return None
        chosen: list[tuple[Kind, bytes]] = []
        total = 0
        for kind, record in self._waiting:
            total += len(record)
            if chosen and total > BATCH_BYTES:
                break
            chosen.append((kind, record))
        self._lost = {}
        self._number += 1
        return Batch(self._number, tuple(k for k, _ in chosen), tuple(r for _, r in chosen), lost)
