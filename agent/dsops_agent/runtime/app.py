"""Composition root of the data process: what it is made of, its threads, its end.

Threads besides those of gRPC and REST: ``direct`` takes connections on the direct socket, one ``direct-call`` waits for
all of them and others answer what takes longer, ``direct-call-look`` sees to it that none keeps them waiting;
``control`` takes control connections, each of which has a reader and workers; ``report`` ends
intervals and sends records, ``observe`` shows the watches and duels what was answered, ``redact`` waits for the program
that takes things out of samples, ``grow`` makes further instances of models whose callers wait, each challenger has
``duel-<model>``, and the main thread waits for the end. Then ``leave`` (of ``__main__``) ends the process should that
take too long.
"""

import gc
import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType

from dsops.clock import Clock
from dsops.direct import direct_path
from dsops_agent.moment import Moments
from dsops_agent.runtime.accelerator import Accelerator
from dsops_agent.runtime.brake import Brake
from dsops_agent.runtime.calls import Calls
from dsops_agent.runtime.claim import claimed, own_file, settings_digest
from dsops_agent.runtime.collect import Identity
from dsops_agent.runtime.direct_server import DirectServer
from dsops_agent.runtime.dispatch import Dispatcher
from dsops_agent.runtime.doors import Door, end_together
from dsops_agent.runtime.duel import Terms
from dsops_agent.runtime.duels import Duels
from dsops_agent.runtime.engine import ServedModel
from dsops_agent.runtime.flight import FlightRecorder, fault_file, forget_flight
from dsops_agent.runtime.growth import Growth
from dsops_agent.runtime.handlers import ControlRequests, Process
from dsops_agent.runtime.instances import most_instances
from dsops_agent.runtime.kpis import Kpis
from dsops_agent.runtime.later import Later
from dsops_agent.runtime.link import ControlLink
from dsops_agent.runtime.observe import Observers
from dsops_agent.runtime.placement import place, usable_cpus
from dsops_agent.runtime.records import Kind, Reason
from dsops_agent.runtime.report import Reporter
from dsops_agent.runtime.rest import RestService
from dsops_agent.runtime.rest_server import RestServer
from dsops_agent.runtime.room import Room
from dsops_agent.runtime.sample_budgets import SampleBudgets
from dsops_agent.runtime.samples import Sampling
from dsops_agent.runtime.server import start_server
from dsops_agent.runtime.settings import RuntimeSettings
from dsops_agent.runtime.shared_memory import Regions
from dsops_agent.runtime.sockets import Access, listen
from dsops_agent.runtime.swap import Models
from dsops_agent.runtime.throttle import ThrottleLimits
from dsops_agent.runtime.unreported import Unreported, left_behind
from dsops_agent.runtime.watch import ModelWatch
from dsops_agent.runtime.wishes import SampleWish, Wishes

logger = logging.getLogger(__name__)

CONTROL_MODE = 0o600
_GRACE_S = 1.5
"""How long requests in flight may take at the end."""
_JOIN_S = 0.3
_LOOK_S = 0.5


class RuntimeProcess:
    """The data process.

    Args:
        folder: Run folder; holds the pid file and, unless set otherwise, the sockets.
        settings_json: How it works.
        clock: Tells the time.

    Raises:
        InvalidConfig: The settings are not valid.
    """

    def __init__(self, folder: Path, settings_json: str, clock: Clock) -> None:
        settings, self._digest = RuntimeSettings.parse(settings_json), settings_digest(settings_json)
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._end = threading.Event()
        self._was_signalled = False
        self._accelerator = Accelerator(settings.delegate, self._fell_back)
        flights = FlightRecorder(folder, is_patient=settings.shadow)
        cpus = usable_cpus(settings.cpus)
        most = most_instances(settings.instances, cpus, settings.threads, settings.cpu_percent)
        self._growth = Growth(most, partial(_free_bytes, folder))
        self._models = Models(settings.threads, self._watch, self._accelerator, flights, clock, self._growth)
        self._brake = Brake(
            ThrottleLimits(settings.max_temperature_c, settings.cpu_percent), settings.temperature_sensor
        )
        self._observers = Observers()
        self._access = Access(settings.allow, is_private=settings.private)
        self._regions = Regions(self._access.permits)
        self._later = Later()
        self._wishes = Wishes(clock)
        self._budgets = SampleBudgets(settings.samples, clock, folder)
        self._link: ControlLink | None = None
        self._reporter = Reporter(
            self._make_watch,
            lambda: self._link.channel() if self._link else None,
            self._observers.settle,
            self._observers.mark,
            settings.interval_s,
            clock,
        )
        self._duels = Duels(
            Terms(self._reporter.put, settings.interval_s, settings.challenger_wait_s, clock, self._brake)
        )
        self._observers.listen(self._duels.watch)
        self._report = threading.Thread(target=self._reporter.run, name="report", daemon=True)
        self._grow = threading.Thread(target=self._growth.run, name="grow", daemon=True)
        self._observe = threading.Thread(target=self._observers.run, name="observe", daemon=True)
        self._redact = threading.Thread(target=self._later.run, name="redact", daemon=True)

    def run(self, ready: Callable[[], None] = lambda: None, ending: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM, SIGINT, a shutdown request, or the loss of the control process.

        Args:
            ready: Called once both sockets answer.
            ending: Called when the end begins.

        Raises:
            InvalidConfig: A socket path cannot be used.
            PortBusy: Another process listens on one.
        """
        if problem := place(self._settings.cpus, self._settings.nice):
            self._reporter.event("placement_refused", problem)
        if self._settings.shadow:
            leave_the_processor()
        self._accelerator.usable()
        control = Path(self._settings.control_socket or self._folder / "control.sock")
        inference = Path(self._settings.socket or self._folder / "inference.sock")
        requests = ControlRequests(
            self._models,
            self._end.set,
            self._duels,
            Process(self._brake.state, self._digest, self._is_ending, self._wish),
        )
        with ExitStack() as made:  # removes what this process made, and nothing that was there before, or comes later
            self._link = link = ControlLink(listen(control, CONTROL_MODE), requests.handle, self._clock)
            made.callback(own_file(control))
            made.callback(link.stop)
            access = self._access
            dispatcher = Dispatcher(
                self._models,
                self._observers,
                duels=self._duels,
                queue=self._settings.queue,
                hold=self._brake.hold,
            )
            room = Room()
            kpis = Kpis(lambda model: _identity(dispatcher.find(model).model), self._put_figure, self._clock)
            calls = Calls(dispatcher, self._regions, room, kpis).all()
            direct = DirectServer(calls, direct_path(inference), access, room)  # first: who sees the other looks for it
            made.callback(own_file(direct_path(inference)))
            server = start_server(calls, inference, access, self._settings.grpc, room)
            made.callback(own_file(inference))
            doors: list[Door] = [server]
            others = made.enter_context(ExitStack())
            others.callback(end_together, doors, _GRACE_S)
            doors.append(direct)
            direct.start()
            if self._settings.rest:
                service = RestService(dispatcher, self._regions, room, kpis)
                rest = RestServer(service, self._settings.rest, access, room)
                doors.append(rest)
                rest.start()
            made.callback(forget_flight, self._folder)
            made.enter_context(fault_file(self._folder))
            made.enter_context(claimed(self._folder))  # once every socket is there: nobody else has this folder
            self._serve(link, ready)
            ending()
            self._finish(dispatcher, others)

    def stop_on_signals(self) -> None:
        """Let SIGTERM and SIGINT end :meth:`run` in order."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take_signal)

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        self._was_signalled = True  # not the event: its lock may be held by the very code that the signal interrupts

    def _serve(self, link: ControlLink, ready: Callable[[], None]) -> None:
        for record in left_behind(self._folder):
            self._reporter.buffer.add(Kind.TELEMETRY, record)
        control = threading.Thread(target=link.run, name="control", daemon=True)
        for thread in (control, self._report, self._observe, self._grow, self._redact):
            thread.start()
        gc.freeze()  # what is loaded by now stays: to look through all of it would hold requests up for 20 to 100 ms
        ready()
        self._wait(link)

    def _finish(self, dispatcher: Dispatcher, others: ExitStack) -> None:
        """Send away who waits, answer what runs, and hand over the last records."""
        dispatcher.admission.close()
        self._growth.stop()
        self._duels.abandon()
        others.close()  # before the last records: what is answered after them is never counted
        self._observers.stop()
        self._observe.join(_JOIN_S)
        self._duels.finish(_JOIN_S)
        self._reporter.stop()
        self._report.join(_JOIN_S)
        self._later.stop()
        self._redact.join(_JOIN_S)
        self._reporter.finish()
        logger.info("the runtime has ended")

    def _is_ending(self) -> bool:
        return self._was_signalled or self._end.is_set()

    def _wait(self, link: ControlLink) -> None:
        while not self._is_ending() and not self._end.wait(_LOOK_S):
            self._brake.look()
            self._regions.let_go()
            if link.alone_s() >= self._settings.orphan_grace_s:
                logger.warning("no control process for %g s: the runtime ends", self._settings.orphan_grace_s)
                self._end.set()

    def _wish(self, wanted: Sequence[SampleWish]) -> None:
        self._wishes.follow(wanted)
        self._reporter.wish()

    def _fell_back(self, delegate: str, why: str) -> None:
        self._reporter.event("delegate_fallback", f"models run on the processor: {delegate} is not used: {why}")

    def _lose_sample(self, reason: Reason) -> None:
        if not self._settings.shadow:
            self._reporter.buffer.lose(Kind.SAMPLES, reason)

    def _put_figure(self, record: bytes) -> None:
        self._reporter.put(Kind.TELEMETRY, record, False)

    def _watch(self, served: ServedModel) -> ModelWatch:
        return self._reporter.watch(served)

    def _make_watch(self, served: ServedModel, put: Callable[[Kind, bytes, bool], None]) -> ModelWatch:
        chance = random.SystemRandom().random
        if self._settings.shadow:
            put = _report_nothing
        settings = self._settings
        watch = ModelWatch(
            served,
            Sampling(settings.samples, chance, self._budgets, self._later.put, self._wishes, self._lose_sample),
            put,
            self._clock,
            drift_enabled=settings.drift_enabled,
            reports=settings.reports,
        )
        if not settings.shadow:
            watch.keep_in(Unreported(self._folder, Moments(self._clock)))
        return watch


def _free_bytes(folder: Path) -> int:
    from dsops_agent.room import HostRoom  # noqa: PLC0415  # seldom asked: at the start it would take time from models

    return HostRoom(folder).memory().free_bytes


def leave_the_processor() -> None:
    """Run only when nobody else wants to: threads that start later do so too."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _identity(served: ServedModel) -> Identity:
    return Identity(served.name, served.release, served.digest)


def _report_nothing(_kind: Kind, _record: bytes, _urgent: bool) -> None:
    """Let a record go: it is about answers that nobody got."""
