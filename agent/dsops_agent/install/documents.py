"""Fetches documents by digest and holds them until they can be judged: those of trust, and what bundles need.

They come as bundles' chunks do: as retained messages, else from the controller itself. One that does not come is asked
for again and again; it is never taken for one that does not exist.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping

from dsops.chunks import MAX_CHUNK_BYTES
from dsops.messages import Problem
from dsops_agent.install.fetch import Pace
from dsops_agent.install.ports import Chunk, ChunkSource
from dsops_agent.install.window import Action, Kind, Window

logger = logging.getLogger(__name__)

MAX_HELD_BYTES = 2 * 1024 * 1024
"""Several times what a head leads to. More is held only when heads change faster than they can be judged."""


class Documents:
    """What is wanted, and what came of it. Single-threaded; the caller passes documents and time in.

    Args:
        source: Where documents are asked for.
        pace: How to ask.
    """

    def __init__(self, source: ChunkSource, pace: Pace) -> None:
        self._source = source
        self._pace = pace
        self._wanted: dict[str, None] = {}
        self._held: dict[str, bytes] = {}
        self._window = Window((), limit=pace.window, timeout_s=pace.timeout_s)
        self._again_s: float | None = None
        self.failure = ""
        """Why what is wanted does not come; empty while it is waited for."""

    @property
    def held(self) -> Mapping[str, bytes]:
        """What came, by digest."""
        return self._held

    @property
    def next_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        return self._again_s if self._again_s is not None else self._window.next_s

    def wants(self, digest: str) -> bool:
        """Return whether a document is wanted and has not come."""
        return digest in self._wanted

    def want(self, digests: Iterable[str], now_s: float) -> None:
        """Ask for exactly these besides what is held; nothing at all forgets what is held too."""
        asked = tuple(digests)
        if not asked or sum(map(len, self._held.values())) > MAX_HELD_BYTES:
            self._held.clear()
        wanted = dict.fromkeys(digest for digest in asked if digest not in self._held)
        if wanted == self._wanted:
            return
        for digest in self._wanted:
            self._source.cancel(digest)
        self._wanted = wanted
        self._begin(now_s)

    def arrived(self, digest: str, data: bytes, now_s: float) -> bool:
        """Take a document that is wanted; return whether it was the last one missing."""
        good = len(data) <= MAX_CHUNK_BYTES and hashlib.sha256(data).hexdigest() == digest
        if good:
            self._held[digest] = data
            self._wanted.pop(digest, None)
        self._do(self._window.arrived(digest, good=good, now_s=now_s), now_s)
        return good and not self._wanted

    def lost(self, digest: str, problem: Problem, now_s: float) -> None:
        """Ask another way for a document that a source cannot bring; one that is not wanted is ignored."""
        self._do(self._window.lost(digest, str(problem.message or problem.code), now_s), now_s)

    def tick(self, now_s: float) -> None:
        """Ask again for what is late."""
        if self._again_s is not None and now_s >= self._again_s:
            self._begin(now_s)
        self._do(self._window.tick(now_s), now_s)

    def reconnected(self, now_s: float) -> None:
        """Begin to wait anew for everything that is outstanding; ask at once for what did not come before."""
        if self._again_s is not None:
            self._begin(now_s)
        self._window.reconnected(now_s)

    def receiving(self, now_s: float) -> None:
        """Note that bytes come, which may be those of a document."""
        self._window.receiving(now_s)

    # What the window asks.

    def is_cut_off(self, digest: str) -> bool:
        """Return whether nobody who may have a document can be asked at this moment."""
        return self._source.is_cut_off(Chunk(digest))

    def take(self, digest: str) -> bool:
        """Return whether somebody can be asked for a document; no budget counts it."""
        return not self.is_cut_off(digest)

    def spend(self, digest: str) -> None:
        """Count nothing."""

    def _begin(self, now_s: float) -> None:
        self._again_s = None
        self.failure = ""
        limit, timeout_s = self._pace.window, self._pace.timeout_s
        self._window = Window(self._wanted, limit=limit, timeout_s=timeout_s, meter=self, backs_off=False)
        self._do(self._window.fill(now_s), now_s)

    def _do(self, actions: list[Action], now_s: float) -> None:
        for action in actions:
            match action.kind:
                case Kind.REQUEST:
                    self._source.request(Chunk(action.digests[0]))
                case Kind.CANCEL:
                    self._source.cancel(action.digests[0])
                case Kind.NEED:
                    self._source.need(tuple(map(Chunk, action.digests)))
                case Kind.FAIL:
                    logger.warning("documents do not come: %s", action.reason)
                    self.failure = action.reason
                    self._again_s = now_s + self._pace.timeout_s
                case Kind.STORE:
                    pass  # held already
