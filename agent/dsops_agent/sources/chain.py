"""The installer's one source, made of several: each chunk is asked for at one of them, and at the next if need be.

What a source brings is hashed on arrival, so that a cache which lies costs a transfer time and nothing else. Only what
the last source brings is handed on as it is: the transfer checks it, and there is nobody else to ask.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from dsops.chunks import MAX_CHUNK_BYTES
from dsops.clock import Clock
from dsops.errors import SourceEndless, SourceFailed, SourceLacks, SourceLies, SourceSlow, SourceTruncated
from dsops.messages import Problem
from dsops_agent.install.ports import Chunk, EventSink
from dsops_agent.install.steps import problem_of
from dsops_agent.sources.choice import Choice, Setback
from dsops_agent.sources.ports import Source
from dsops_agent.status import SourceStatus

logger = logging.getLogger(__name__)

_MOST_TOLD = 64
_COSTLY = SourceLies, SourceTruncated, SourceSlow, SourceEndless
"""Failures at which bytes have come, for nothing."""


class LastSource(Source, Protocol):
    """The source that is asked when no other one has a chunk: the broker, and the controller behind it."""

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        """Ask the controller itself."""
        ...

    def is_cut_off(self, chunk: Chunk) -> bool:
        """Return whether it cannot be asked at this moment."""
        ...


@dataclass
class _Asked:
    chunk: Chunk
    at: str = ""
    tried: set[str] = field(default_factory=set)

    @property
    def file(self) -> str:
        return self.chunk.file or self.chunk.digest


class Chain:
    """Asks several sources. Implements the installer's ``ChunkSource`` and the sources' ``Delivery``. Thread-safe.

    Args:
        deliver: Takes chunks, by digest.
        lost: Told of a chunk that nobody near by has, if only they may be asked, and why.
        wasted: Told of a chunk whose bytes came from afar, in part or wrong, and are fetched once more.
        events: Keeps events; one of each kind for each source and file.
        clock: Time.
    """

    def __init__(
        self,
        deliver: Callable[[str, bytes], None],
        lost: Callable[[str, Problem], None],
        wasted: Callable[[str], None],
        events: EventSink,
        clock: Clock,
    ) -> None:
        self._deliver = deliver
        self._lost = lost
        self._wasted = wasted
        self._events = events
        self._clock = clock
        self._lock = threading.RLock()
        self._asked: dict[str, _Asked] = {}
        self._told: dict[tuple[str, str, str], None] = {}
        self._observe: Callable[[str, Chunk, bytes], None] | None = None

    def use(self, others: Sequence[Source], last: LastSource) -> None:
        """Set the sources, in the order in which they are asked; once, before anything is asked for."""
        self._last = last
        self._sources: dict[str, Source] = {source.name: source for source in (*others, last)}
        self._choice = Choice([source.name for source in (*others, last)])
        self._near = frozenset(source.name for source in others if source.is_near)

    def observe(self, observer: Callable[[str, Chunk, bytes], None]) -> None:
        """Show every chunk with the right bytes to an observer, with the name of its source."""
        self._observe = observer

    # What the installer asks.

    def request(self, chunk: Chunk) -> None:
        """Ask for a chunk; asked again, the source that did not bring it is passed over."""
        with self._lock:
            asked = self._asked.setdefault(chunk.digest, _Asked(chunk))
            before, asked.chunk = asked.at, chunk
            if before:
                self._set_back(before, asked.file, _late(before))
            if asked.at == before:
                self._ask_next(asked)

    def has_near(self, chunk: Chunk) -> bool:
        """Return whether a chunk would be asked for now at a source that costs the link nothing."""
        with self._lock:
            return self._choice.pick(chunk.file or chunk.digest, (), self._clock.monotonic_s()) in self._near

    def is_cut_off(self, chunk: Chunk) -> bool:
        """Return whether only the last source is left to be asked for a chunk, and cannot be asked now."""
        with self._lock:
            name = self._choice.pick(chunk.file or chunk.digest, (), self._clock.monotonic_s())
            return name == self._choice.last and self._last.is_cut_off(chunk)

    def cancel(self, digest: str) -> None:
        """Stop waiting for a chunk, wherever it was asked for."""
        with self._lock:
            asked = self._asked.pop(digest, None)
            if asked:
                self._sources[asked.at].cancel(digest)

    def need(self, chunks: tuple[Chunk, ...]) -> None:
        """Ask the controller itself: the other sources had their time."""
        with self._lock:
            asked = [self._asked[chunk.digest] for chunk in chunks if chunk.digest in self._asked]
            for one in asked:
                one.chunk = replace(one.chunk, near=False)
            for name, file in {one.at: one.file for one in asked}.items():
                self._set_back(name, file, _late(name))
            for one in asked:
                self._sources[one.at].cancel(one.chunk.digest)
                one.at = self._choice.last
                one.tried.add(one.at)
            self._last.need(chunks)

    # What sources bring.

    def came(self, source: str, digest: str, data: bytes) -> None:
        """Take a chunk; wrong bytes make the next source be asked."""
        is_last = source == self._choice.last
        is_checked = not is_last or self._observe is not None
        is_right = not is_checked or (len(data) <= MAX_CHUNK_BYTES and hashlib.sha256(data).hexdigest() == digest)
        with self._lock:
            asked = self._asked.get(digest)
            if asked is None and not is_last:
                return
            if asked and is_right:
                self._choice.standings[source].good(asked.file, len(data))
            elif asked and not is_last:
                lie = SourceLies(f"{source} brings other bytes than those that were asked for", why=f"chunk {digest}")
                self.lost(source, (digest,), lie)
        if self._observe and asked and is_right:
            self._observe(source, asked.chunk, data)
        if is_right or is_last:
            self._deliver(digest, data)

    def lost(self, source: str, digests: tuple[str, ...], error: SourceFailed) -> None:
        """Ask elsewhere for what a source does not bring."""
        with self._lock:
            asked = [self._asked[digest] for digest in digests if digest in self._asked]
            if asked and isinstance(error, _COSTLY) and source not in self._near:
                self._wasted(asked[0].chunk.digest)  # the others of the same answer had not begun
            self._set_back(source, asked[0].file if asked else "", error)
            for one in asked:
                if one.at == source:
                    self._ask_next(one)

    def renewed(self, source: str) -> None:
        """Ask a source, which has something new, for everything that is outstanding."""
        with self._lock:
            self._choice.standings[source].forgive()
            for asked in tuple(self._asked.values()):
                if asked.at != source:
                    self._move(asked, source)

    def withdrawn(self, source: str) -> None:
        """Do not ask a source any more, which has nothing, until it is renewed."""
        with self._lock:
            self._choice.standings[source].is_empty = True
            self._leave(source)

    def states(self) -> tuple[SourceStatus, ...]:
        """Return how each source that has something stands, in the order in which they are asked."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            return tuple(
                SourceStatus(
                    name=name, chunks=s.chunks, total_bytes=s.total_bytes, problem=s.problem, aside_s=s.aside_s(now_s)
                )
                for name, s in self._choice.standings.items()
                if not s.is_empty
            )

    def _ask_next(self, asked: _Asked) -> None:
        name = self._choice.pick(asked.file, asked.tried, self._clock.monotonic_s())
        if name in asked.tried:
            asked.tried.clear()  # every one had its turn: begin anew
        if asked.chunk.near and name not in self._near:
            self._give_up(asked)
        else:
            self._move(asked, name)

    def _give_up(self, asked: _Asked) -> None:
        """Say that nobody near by brings a chunk; whoever asked decides whether it may come from afar."""
        before, asked.at = asked.at, ""
        if self._asked.pop(asked.chunk.digest, None) is not asked:
            return
        if before:
            self._sources[before].cancel(asked.chunk.digest)
        self._lost(asked.chunk.digest, problem_of(SourceLacks("no source near by brings it", why=asked.chunk.digest)))

    def _move(self, asked: _Asked, name: str) -> None:
        if asked.at and asked.at != name:
            self._sources[asked.at].cancel(asked.chunk.digest)
        asked.at = name
        asked.tried.add(name)
        self._sources[name].request(asked.chunk)

    def _set_back(self, name: str, file: str, error: SourceFailed) -> None:
        if name == self._choice.last:
            return
        problem = Problem(code=error.code, message=str(error)[:1000])
        is_aside = self._choice.standings[name].bad(_setback(error), file, problem, self._clock.monotonic_s())
        self._tell(name, file, problem, is_failure=not isinstance(error, SourceLacks))
        if is_aside:
            logger.warning("%s is set aside: %s", name, error)
            self._leave(name)

    def _leave(self, name: str) -> None:
        for asked in [asked for asked in self._asked.values() if asked.at == name]:
            self._ask_next(asked)

    def _tell(self, name: str, file: str, problem: Problem, *, is_failure: bool) -> None:
        key = (name, problem.code, file)
        if key in self._told:
            return
        self._told[key] = None
        if len(self._told) > _MOST_TOLD:
            del self._told[next(iter(self._told))]
        logger.info("%s: %s", name, problem.message)
        if is_failure:
            self._events.event("source_failed", "", 0, file, problem.code, problem.message)


def _late(name: str) -> SourceSlow:
    return SourceSlow(f"{name} did not bring a chunk in time")


def _setback(error: SourceFailed) -> Setback:
    if isinstance(error, SourceLacks):
        return Setback.LACKS
    return Setback.LIES if isinstance(error, SourceLies) else Setback.FAILS
