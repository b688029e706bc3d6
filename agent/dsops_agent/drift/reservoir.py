"""A weighted sample without replacement of a stream of unknown length, in one pass, and what each sample stands for.

A-Res (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", Information Processing Letters 2006): every
item draws a key, exponential with its weight as the rate, and those with the smallest keys stay. How likely an item was
to stay follows from the smallest key that did not: given all the other keys, it stays exactly when its own is below, so
with probability ``1 - exp(-weight * threshold)``; sums over the samples, each divided by this, estimate sums over the
stream without bias (rank conditioning; Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007).

Items that are alike count as one: its weight is their sum, its key the smallest of theirs, its content that of the key.
That is again exponential, so that the above holds for it too. The room is one of bytes; all this is exact where items
have one size, as frames of one model do.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_REMEMBERED = 512
"""Prints that are remembered; what resembles an item that was forgotten is an item of its own."""


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """Something that may stay.

    Attributes:
        key: What it drew; the smallest stay.
        weight: The rate of the draw.
        expansion: How many of the stream it stands for, if it stays for certain.
        size_bytes: Room that it takes.
        content: What it is.
        own_weight: Its own weight, where ``weight`` is that of many of which it was drawn.
    """

    key: float
    weight: float
    expansion: float
    size_bytes: int
    content: T
    own_weight: float


@dataclass(frozen=True, slots=True)
class Drawn(Generic[T]):
    """An item that stayed.

    Attributes:
        item: The item.
        inclusion: One in so many of the stream it stands for, inverted; 0 where keys were not drawn by chance.
        repeats: How many alike were offered besides.
    """

    item: Item[T]
    inclusion: float
    repeats: int


@dataclass(slots=True)
class _Group(Generic[T]):
    """Items that are alike; ``item`` is the one with the smallest key, and None once it has been let go."""

    key: float
    weight: float
    expansion: float
    repeats: int
    item: Item[T] | None


class Reservoir(Generic[T]):
    """Holds the items with the smallest keys that fit; at least one, however large it is.

    Args:
        room_bytes: Room for them.
        alike: Whether two prints are of items that are alike; prints that are equal are.
    """

    def __init__(self, room_bytes: float, alike: Callable[[Hashable, Hashable], bool] = lambda one, two: False) -> None:
        self._room_bytes = room_bytes
        self._alike = alike
        self._groups: OrderedDict[Hashable, _Group[T]] = OrderedDict()
        self._held: dict[int, _Group[T]] = {}
        self._heap: list[tuple[float, int]] = []
        self._bytes = 0
        self.threshold = math.inf
        """The smallest key that does not stay."""

    @property
    def size_bytes(self) -> int:
        """Room that is taken."""
        return self._bytes

    def __len__(self) -> int:
        """Return how many items stay."""
        return len(self._held)

    def add(self, item: Item[T], print_: Hashable | None = None) -> None:
        """Offer an item; those with a print are compared with those before."""
        group = None if print_ is None else self._find(print_)
        if group is None:
            group = _Group(math.inf, 0.0, 0.0, -1, None)
            if print_ is not None:
                self._remember(print_, group)
        group.weight += item.weight
        group.expansion += item.expansion
        group.repeats += 1
        if item.key < group.key:
            self._replace(group, item)

    def draw(self) -> list[Drawn[T]]:
        """Return what stays, smallest key first, and what each stands for."""
        groups = sorted(self._held.values(), key=lambda group: group.key)
        return [Drawn(group.item, self._inclusion(group), group.repeats) for group in groups if group.item is not None]

    def _inclusion(self, group: _Group[T]) -> float:
        if group.expansion <= 0:
            return 0.0
        stays = 1.0 if math.isinf(self.threshold) else -math.expm1(-group.weight * self.threshold)
        return stays / group.expansion

    def _find(self, print_: Hashable) -> _Group[T] | None:
        if (found := self._groups.get(print_)) is not None:
            return found
        return next((group for other, group in self._groups.items() if self._alike(print_, other)), None)

    def _remember(self, print_: Hashable, group: _Group[T]) -> None:
        self._groups[print_] = group
        if len(self._groups) > MAX_REMEMBERED:
            self._groups.popitem(last=False)

    def _replace(self, group: _Group[T], item: Item[T]) -> None:
        """Let an item stand for its group, and let go of what no longer fits."""
        group.key = item.key
        if item.key >= self.threshold:
            return
        self._bytes += item.size_bytes - (group.item.size_bytes if group.item else 0)
        group.item = item
        self._held[id(group)] = group
        heapq.heappush(self._heap, (-item.key, id(group)))
        while self._bytes > self._room_bytes and len(self._held) > 1:
            self._let_go()

    def _let_go(self) -> None:
        negative, name = heapq.heappop(self._heap)
        group = self._held.get(name)
        if group is None or group.item is None or group.key != -negative:
            return  # the entry is of a key that the group had before
        self._bytes -= group.item.size_bytes
        group.item = None
        del self._held[name]
        self.threshold = min(self.threshold, group.key)
