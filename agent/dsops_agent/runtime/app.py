"""Composition root of the data process: what it is made of, its threads, its end.

Threads besides those of gRPC and REST: ``control`` takes control connections, ``report`` ends intervals and sends
records, each control connection has a reader and workers, and the main thread waits for the end.
"""

import logging
import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import grpc

from dsops.clock import Clock
from dsops.files import write_atomically
from dsops_agent.drift.sampler import Sampler
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.handlers import ControlRequests
from dsops_agent.runtime.link import ControlLink
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.report import Reporter
from dsops_agent.runtime.rest import RestService
from dsops_agent.runtime.rest_server import RestServer
from dsops_agent.runtime.server import start_server
from dsops_agent.runtime.settings import RuntimeSettings
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access, listen
from dsops_agent.runtime.swap import Models
from dsops_agent.runtime.watch import ModelWatch

logger = logging.getLogger(__name__)

CONTROL_MODE = 0o600
_GRACE_S = 2.0
"""How long requests in flight may take at the end."""
_LOOK_S = 0.5


class RuntimeProcess:
    """The data process.

    Args:
        folder: Run folder; holds the pid file and, unless set otherwise, the sockets.
        settings: How it works.
        clock: Tells the time.
    """

    def __init__(self, folder: Path, settings: RuntimeSettings, clock: Clock) -> None:
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._end = threading.Event()
        self._was_signalled = False
        self._models = Models(settings.threads, self._watch)
        self._link: ControlLink | None = None
        self._reporter = Reporter(
            self._make_watch,
            self._models.all,
            lambda: self._link.channel() if self._link else None,
            settings.interval_s,
            clock,
        )

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT, a shutdown request, or the loss of the control process.

        Raises:
            InvalidConfig: A socket path cannot be used.
            PortBusy: Another process listens on one.
        """
        control = Path(self._settings.control_socket or self._folder / "control.sock")
        inference = Path(self._settings.socket or self._folder / "inference.sock")
        pid_file = self._folder / "runtime.pid"
        requests = ControlRequests(self._models, self._end.set)
        with ExitStack() as made:  # removes what this process made, and nothing that was there before
            self._link = link = ControlLink(listen(control, CONTROL_MODE), requests.handle, self._clock)
            made.callback(control.unlink, missing_ok=True)
            made.callback(link.stop)
            access = Access(self._settings.allow)
            dispatcher, regions = Dispatcher(self._models, self._settings.queue), Regions(access.permits)
            server = start_server(dispatcher, regions, inference, access, self._settings.grpc)
            made.callback(inference.unlink, missing_ok=True)
            if self._settings.rest:
                rest = RestServer(RestService(dispatcher, regions), self._settings.rest, access)
                made.callback(rest.stop, _GRACE_S)
                rest.start()
            write_atomically(pid_file, f"{os.getpid()}\n".encode())
            made.callback(pid_file.unlink, missing_ok=True)
            self._serve(server, link)

    def stop_on_signals(self) -> None:
        """Let SIGTERM and SIGINT end :meth:`run` in order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take_signal)

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        self._was_signalled = True  # not the event: its lock may be held by the very code that the signal interrupts

    def _serve(self, server: grpc.Server, link: ControlLink) -> None:
        control = threading.Thread(target=link.run, name="control", daemon=True)
        report = threading.Thread(target=self._reporter.run, name="report", daemon=True)
        control.start()
        report.start()
        self._wait(link)
        server.stop(_GRACE_S).wait(_GRACE_S + 0.5)
        self._reporter.stop()
        report.join(_GRACE_S / 2)
        self._reporter.finish()
        logger.info("the runtime has ended")

    def _wait(self, link: ControlLink) -> None:
        while not self._was_signalled and not self._end.wait(_LOOK_S):
            if link.alone_s() >= self._settings.orphan_grace_s:
                logger.warning("no control process for %g s: the runtime ends", self._settings.orphan_grace_s)
                return

    def _watch(self, served: ServedModel) -> ModelWatch:
        return self._reporter.watch(served)

    def _make_watch(self, served: ServedModel, put: Callable[[Kind, bytes, bool], None]) -> ModelWatch:
        chance = random.SystemRandom().random
        sampler = Sampler(self._settings.samples, chance, self._clock.monotonic_s())
        return ModelWatch(served, sampler, put, self._clock, drift_enabled=self._settings.drift_enabled)
