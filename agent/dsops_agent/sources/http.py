"""Chunks from a web server or a content delivery network, by requests for parts of files (HTTP Range)."""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from dsops.errors import SourceFailed
from dsops_agent.install.ports import Chunk
from dsops_agent.sources.http_answer import Part, next_part
from dsops_agent.sources.http_fetch import HttpFetcher
from dsops_agent.sources.http_meter import Limits, Stopped
from dsops_agent.sources.ports import Delivery

logger = logging.getLogger(__name__)

PATIENCE = Limits()
TELL_S = 0.25


class HttpSource:
    """Fetches what is asked for, one request at a time, several chunks that adjoin in one. :meth:`run` is a thread.

    Args:
        base: Where files are, by their SHA-256.
        delivery: Takes what comes.
        tls: Returns the context of a connection by HTTPS.
        limits: How patient to be.
        receiving: Called now and then while bytes come.
    """

    is_near = False

    def __init__(
        self,
        base: str,
        delivery: Delivery,
        tls: Callable[[], ssl.SSLContext],
        limits: Limits = PATIENCE,
        receiving: Callable[[], None] = lambda: None,
    ) -> None:
        url = urlsplit(base)
        self.name = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path.rstrip('/')}"
        self._delivery = delivery
        self._fetcher = HttpFetcher(base, tls, limits, self._tell)
        self._receiving = receiving
        self._told_s = time.monotonic()
        self._changed = threading.Condition()
        self._wanted: dict[str, Chunk] = {}
        self._under_way: frozenset[str] = frozenset()
        self._is_over = False

    @property
    def read_bytes(self) -> int:
        """Bytes that were read so far, headers and framing included."""
        return self._fetcher.read_bytes

    def request(self, chunk: Chunk) -> None:
        """Fetch a chunk."""
        with self._changed:
            self._wanted[chunk.digest] = chunk
            self._changed.notify()

    def cancel(self, digest: str) -> None:
        """Do not fetch a chunk any more; a request of which nothing is wanted any more is broken off."""
        with self._changed:
            was_wanted = self._wanted.pop(digest, None) is not None
            if was_wanted and digest in self._under_way and not self._under_way & self._wanted.keys():
                self._fetcher.stop()

    def stop(self) -> None:
        """End :meth:`run` soon."""
        with self._changed:
            self._is_over = True
            self._wanted.clear()
            self._fetcher.stop()
            self._changed.notify()

    def run(self) -> None:
        """Fetch until :meth:`stop`."""
        while (part := self._next()) is not None:
            try:
                self._fetcher.fetch(part, self._take)
            except Stopped:
                continue
            except SourceFailed as error:
                self._lose(part, error)
        self._fetcher.close()

    def _next(self) -> Part | None:
        with self._changed:
            self._under_way = frozenset()
            self._changed.wait_for(lambda: self._wanted or self._is_over)
            if self._is_over:
                return None
            part = next_part(self._wanted)
            self._under_way = frozenset(chunk.digest for chunk in part.chunks)
            self._fetcher.prepare()
            return part

    def _tell(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_S:
            self._told_s = now_s
            self._receiving()

    def _take(self, chunk: Chunk, data: bytes) -> None:
        if self._drop(chunk.digest):
            self._delivery.came(self.name, chunk.digest, data)

    def _drop(self, digest: str) -> bool:
        with self._changed:
            return self._wanted.pop(digest, None) is not None

    def _lose(self, part: Part, error: SourceFailed) -> None:
        digests = tuple(chunk.digest for chunk in part.chunks if self._drop(chunk.digest))
        logger.debug("%s: %d chunks did not come: %s", self.name, len(digests), error)
        self._delivery.lost(self.name, digests, error)
