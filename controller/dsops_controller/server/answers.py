"""Who is sent the next chunk: devices that ask for chunks of their own take turns, each within its allowance.

Devices are told apart by their certificates, so that one that is greedy or hostile gets its share, and no more. What it
asks for beyond what fits is forgotten; it asks again.
"""

from dataclasses import dataclass

from dsops.clock import Clock
from dsops.messages import MAX_ANSWERED, MAX_NEED, Need
from dsops_controller.allowance import Allowance

CHUNK_BURST = 256
CHUNKS_PER_S = 128.0
WAITING = 16_384
"""Chunks of all devices together that wait to be sent."""


@dataclass(frozen=True)
class Answer:
    """Send a device one chunk that it could not get as a retained message.

    Attributes:
        device: The device.
        digest: The chunk, or a document; with a number, the chunk index that names the chunk.
        number: The chunk's number in that index; -1 when the digest is the chunk's own.
    """

    device: str
    digest: str
    number: int = -1


class Answers:
    """The chunks that devices wait for, by device. Not thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._waiting: dict[str, dict[Answer, None]] = {}
        self._allowance = Allowance(clock, CHUNK_BURST, CHUNKS_PER_S)
        self._count = 0

    def __len__(self) -> int:
        """Return how many chunks wait."""
        return self._count

    def ask(self, device: str, need: Need) -> None:
        """Note what a device asks for; of a file the first ``MAX_ANSWERED`` chunks."""
        waiting = self._waiting.setdefault(device, {})
        for answer in _answers(device, need):
            if answer not in waiting and len(waiting) < MAX_NEED and self._has_room(len(waiting)):
                waiting[answer] = None
                self._count += 1
        if not waiting:
            del self._waiting[device]

    def _has_room(self, has: int) -> bool:
        """Make room, if there is none, at the expense of whoever has most; False if that is who asks."""
        if self._count < WAITING:
            return True
        most = max(self._waiting, key=lambda device: len(self._waiting[device]))
        if len(self._waiting[most]) <= has + 1:
            return False
        self._waiting[most].popitem()
        self._count -= 1
        return True

    def take(self) -> Answer | None:
        """Return the next answer of the device whose turn it is; None when none waits, or none may be sent yet."""
        for device in tuple(self._waiting):
            if self._allowance.take(device):
                return self._next_of(device)
        return None

    def _next_of(self, device: str) -> Answer:
        waiting = self._waiting.pop(device)
        answer = next(iter(waiting))
        del waiting[answer]
        self._count -= 1
        if waiting:
            self._waiting[device] = waiting  # behind all others
        return answer


def _answers(device: str, need: Need) -> list[Answer]:
    if need.index is None:
        return [Answer(device, digest) for digest in need.digests]
    return [Answer(device, need.index, number) for number in need.numbers[:MAX_ANSWERED]]
