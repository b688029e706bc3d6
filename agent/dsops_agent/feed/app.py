"""Composition root of the feeding process: its sources, its sinks, their threads, its end.

Threads: ``source NAME`` and ``sink NAME`` for each; ``camera`` for each camera's driver; those of brokers' clients and
of gRPC; the main thread writes the status and waits for the end.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from dsops.errors import DsopsError
from dsops_agent.feed.camera import CameraSource
from dsops_agent.feed.command_sink import CommandOutlet
from dsops_agent.feed.counts import Counts, FeedStatus, write_status
from dsops_agent.feed.directory import DirectorySource
from dsops_agent.feed.file_sink import FileOutlet
from dsops_agent.feed.inbox import Inbox
from dsops_agent.feed.line import ModelLine
from dsops_agent.feed.model import SocketModel
from dsops_agent.feed.mqtt_sink import TopicOutlet
from dsops_agent.feed.mqtt_source import TopicSource
from dsops_agent.feed.ports import Source
from dsops_agent.feed.replay import ReplaySource
from dsops_agent.feed.settings import FeedSettings, Sink
from dsops_agent.feed.settings import Source as SourceSettings
from dsops_agent.feed.sinks import LAST_S, Outlet, QueuedSink
from dsops_agent.status import StateLock

logger = logging.getLogger(__name__)

STATUS_S = 1.0
LOCK_WAIT_S = 15.0
"""How long a process before this one may take to end."""
_LOOK_S = 0.2


class FeedProcess:
    """The feeding process.

    Args:
        settings: How it works.
    """

    def __init__(self, settings: FeedSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._sinks_stop = threading.Event()
        self._was_signalled = False
        self._failure: DsopsError | None = None
        self._source_counts = {source.name: Counts(source.kind) for source in settings.sources}
        self._sink_counts = {sink.name: Counts(sink.kind) for sink in settings.sinks}
        self._sinks: dict[str, QueuedSink] = {}
        self._threads: list[threading.Thread] = []

    def stop_on_signals(self) -> None:
        """Let SIGTERM and SIGINT end :meth:`run` in order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take_signal)

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        self._was_signalled = True  # not the event: its lock may be held by the very code that the signal interrupts

    def stop_with_parent(self) -> None:
        """End :meth:`run` when standard input ends: the control process, which holds its other end, is gone."""
        threading.Thread(target=self._wait_for_parent, name="parent", daemon=True).start()

    def _wait_for_parent(self) -> None:
        while os.read(sys.stdin.fileno(), 4096):
            continue
        self._was_signalled = True

    def run(self) -> None:
        """Work until the end is asked for.

        Raises:
            AlreadyRunning: Another feeding process uses the state folder.
            DsopsError: A source or a sink cannot go on.
        """
        lock = StateLock(self._settings.state, "feed.lock")
        self._take(lock)
        try:
            sinks = [self._start_sink(sink) for sink in self._settings.sinks]
            sources = [self._start_source(source) for source in self._settings.sources]
            self._watch()
            self._end(sources, sinks)
        finally:
            lock.release()
        if self._failure is not None:
            raise self._failure

    def _take(self, lock: StateLock) -> None:
        ends_s, is_first = time.monotonic() + LOCK_WAIT_S, True
        while True:
            try:
                lock.take()
            except DsopsError as error:
                if self._was_signalled or time.monotonic() > ends_s:
                    raise
                if is_first:
                    logger.info("waits until the feeding process before this one has ended: %s", error)
                is_first = False
                time.sleep(_LOOK_S)
            else:
                return

    def _watch(self) -> None:
        next_s = 0.0
        while not self._was_signalled and not self._stop.wait(_LOOK_S):
            if time.monotonic() >= next_s:
                self._write_status()
                next_s = time.monotonic() + STATUS_S

    def _write_status(self) -> None:
        status = FeedStatus(
            pid=os.getpid(),
            sources={name: counts.of_source() for name, counts in self._source_counts.items()},
            sinks={name: counts.of_sink() for name, counts in self._sink_counts.items()},
        )
        write_status(self._settings.state / "status.json", status)

    def _end(self, sources: list[threading.Thread], sinks: list[threading.Thread]) -> None:
        """First the sources, then the sinks, which get a moment for what waits."""
        self._stop.set()
        _join(sources, 2.0)
        for sink in self._sinks.values():
            sink.end()
        _join(sinks, LAST_S)
        self._sinks_stop.set()
        _join(sinks, 1.0)
        self._write_status()

    def _start_sink(self, settings: Sink) -> threading.Thread:
        counts = self._sink_counts[settings.name]
        outlet = self._outlet(settings, counts)
        sink = self._sinks[settings.name] = QueuedSink(settings.name, outlet, settings.queue, counts)
        return self._start(f"sink {settings.name}", lambda: sink.run(self._sinks_stop))

    def _outlet(self, settings: Sink, counts: Counts) -> Outlet:
        if settings.mqtt is not None:
            return TopicOutlet(settings.name, settings.mqtt, self._client_id("sink", settings.name), counts)
        if settings.file is not None:
            return FileOutlet(settings.file)
        assert settings.command is not None  # it is one of the three
        return CommandOutlet(settings.command)

    def _start_source(self, settings: SourceSettings) -> threading.Thread:
        line = ModelLine(
            device=self._settings.device,
            source=settings.name,
            model_name=settings.model,
            model=SocketModel(self._settings.socket, settings.model, settings.input, settings.outputs),
            sinks=[self._sinks[name] for name in settings.sinks or self._sinks],
            counts=self._source_counts[settings.name],
            key=settings.key_on(self._settings.device),
        )
        source = self._source(settings)
        return self._start(f"source {settings.name}", lambda: source.run(line, self._stop))

    def _source(self, settings: SourceSettings) -> Source:
        if settings.directory is not None:
            state = self._settings.state / "sources" / settings.name
            inbox = Inbox(settings.directory.path, state, keep=settings.directory.keep)
            return DirectorySource(settings, settings.directory, inbox)
        if settings.camera is not None:
            return CameraSource(settings, settings.camera)
        if settings.mqtt is not None:
            return TopicSource(settings, settings.mqtt, self._client_id("source", settings.name))
        assert settings.replay is not None  # it is one of the four
        return ReplaySource(settings, settings.replay)

    def _client_id(self, what: str, name: str) -> str:
        return f"{self._settings.device}-{what}-{name}"

    def _start(self, name: str, body: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._guarded, args=(name, body), name=name, daemon=True)
        thread.start()
        return thread

    def _guarded(self, name: str, body: Callable[[], None]) -> None:
        try:
            body()
        except DsopsError as error:
            self._failure = self._failure or error
            self._stop.set()
        except Exception as error:
            logger.exception("%s failed", name)
            self._failure = self._failure or DsopsError(f"{name} failed", why=repr(error), hint="see the agent's log")
            self._stop.set()


def _join(threads: list[threading.Thread], timeout_s: float) -> None:
    ends_s = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, ends_s - time.monotonic()))
