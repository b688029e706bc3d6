"""Composition root of the control process: what it is made of, its threads, and its end.

Threads, all named: ``status`` from the start; ``enrol`` until there is an identity; then ``mqtt``, ``installer``,
``prover``, ``challengers``, ``reporter``, ``runtime`` (supervisor), ``collector``, ``upload-telemetry``,
``upload-samples`` and ``renewal``; of the sources ``folder`` and ``offers``, and where they are configured ``http-1``
and so on, ``site-mqtt``, ``site`` and ``site-shelf``; and ``feed`` where the configuration has a ``[[source]]``.
Besides those, gRPC and the control channel have threads of their own.
"""

import logging
import os
import signal
import threading
from datetime import UTC
from functools import partial
from types import FrameType

import dsops
from dsops.clock import Clock
from dsops.errors import DsopsError, Interrupted, InvalidConfig
from dsops_agent.conditions import require_program
from dsops_agent.config import Config
from dsops_agent.credentials import Credentials
from dsops_agent.enrol import Applicant, GrpcEnroller, enrol_until_done, renew_over_grpc
from dsops_agent.give_back import Turns, give_back, one_pool, settle
from dsops_agent.heartbeats import Heartbeats
from dsops_agent.host import inventory
from dsops_agent.identity import Identity, IdentityFolder
from dsops_agent.launching import EarlyStart
from dsops_agent.parts import Parts
from dsops_agent.renewal import Renewer
from dsops_agent.service_manager import ServiceManager
from dsops_agent.status import StateLock, Status, StatusWriter
from dsops_agent.threads import Threads

logger = logging.getLogger(__name__)

_LOOK_S = 0.25


class Agent:
    """The control process of one device.

    Args:
        config: The configuration.
        clock: Time.
        early: An inference process that was started already.
    """

    def __init__(self, config: Config, clock: Clock, early: EarlyStart | None = None) -> None:
        self._config = config
        self._clock = clock
        self._early = early or EarlyStart()
        self._hearts = Heartbeats()
        self._manager = ServiceManager(self._hearts)
        self._stop = threading.Event()
        self._was_signalled = False
        self._lock = StateLock(config.state)
        self._threads = Threads(self._stop)
        self._identities = IdentityFolder(config.state / "identity")
        self._inventory = inventory(config.transfer.site)
        self._parts: Parts | None = None
        self._renewer: Renewer | None = None
        self._enrolment_problem = ""
        self._turns = Turns()
        self._status = StatusWriter(config.state / "status.json", self._read_status)

    def stop_on_signals(self) -> None:
        """Let SIGTERM and SIGINT end :meth:`run` in order; more of them change nothing."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take_signal)

    def _take_signal(self, number: int, frame: FrameType | None) -> None:
        self._was_signalled = True  # not the event: its lock may be held by the very code that the signal interrupts

    def stop(self) -> None:
        """Make :meth:`run` end soon."""
        self._stop.set()

    def run(self) -> None:
        """Run until :meth:`stop`; then stop everything within ten seconds.

        Raises:
            InvalidConfig: The program that is to be asked about installs cannot be run.
            AlreadyRunning: Another process uses the state folder.
            EnrolmentRefused: The device has no identity, and the controller gives it none.
            DsopsError: The state folder cannot be used.
        """
        if self._config.maintenance.veto:
            require_program(self._config.maintenance.veto)
        self._lock.take()
        one_pool()
        try:
            self._threads.start("status", lambda: self._status.run(self._stop))
            self._threads.start("enrol", self._enter)
            while not self._was_signalled and not self._stop.wait(_LOOK_S):
                self._look()
            self._stop.set()
            self._manager.stopping()
            logger.info("the agent stops")
            self._leave()
        finally:
            self._manager.close()
            self._early.end()
            self._lock.release()
        if self._threads.failure is not None and not isinstance(self._threads.failure, Interrupted):
            raise self._threads.failure

    def _look(self) -> None:
        """A turn of the main loop: tell who supervises us, and give memory back now and then."""
        now_s, is_ready = self._clock.monotonic_s(), self._is_ready()
        self._manager.turn(now_s, is_ready, self._summary())
        if self._turns.is_due(now_s, is_ready=is_ready):
            if self._turns.count == 1:
                settle()
            give_back()

    def _enter(self) -> None:
        """Get an identity, put everything together, start it."""
        self._identities.sweep()
        applicant = self._applicant()
        identity = self._identities.load(self._config.device)
        is_awaited = identity is None  # somebody sets it up and waits for it
        identity = identity or self._first(applicant)
        if self._stop.is_set():
            return
        credentials = Credentials(self._identities, identity, self._clock, self._identity_changed)
        self._renewer = Renewer(
            self._config.device, self._identities, credentials, applicant, renew_over_grpc, self._clock
        )
        self._parts = parts = Parts(
            self._config,
            credentials,
            self._clock,
            self._inventory,
            self._status.changed,
            self._hearts,
            self._early,
            is_awaited=is_awaited,
        )
        parts.start(self._threads, self._stop)
        self._threads.start("renewal", lambda: self._renewer.run(self._stop) if self._renewer else None)
        self._status.changed()

    def _applicant(self) -> Applicant | None:
        settings = self._config.enrolment
        if settings is None:
            return None
        facts = {key: str(value) for key, value in self._inventory.model_dump().items()}
        ask = GrpcEnroller(settings)
        return Applicant(self._config.device, settings, self._identities, facts, ask, self._clock)

    def _first(self, applicant: Applicant | None) -> Identity:
        if applicant is None:
            raise InvalidConfig(
                "the device has no identity and no way to get one",
                why="the configuration has no [enrolment]",
                hint="add [enrolment] with address and ca",
            )
        attempt = partial(self._try_to_enrol, applicant)
        return enrol_until_done(attempt, self._stop, applicant.config.retry_max_s)

    def _try_to_enrol(self, applicant: Applicant) -> Identity:
        try:
            return applicant.enrol(applicant.new_token())
        except DsopsError as error:
            self._enrolment_problem = str(error)
            self._status.changed()
            raise

    def _identity_changed(self) -> None:
        if self._parts is not None:
            self._parts.identity_changed()

    def _leave(self) -> None:
        self._threads.join(1.0, "enrol", "renewal")
        if self._parts is not None:
            self._parts.stop(self._threads)
        self._status.changed()
        self._threads.join(1.0, "status")
        self._status.write()
        if self._parts is not None:
            self._parts.close()

    def _is_ready(self) -> bool:
        """Whether the agent does what it can: a device that waits to be accepted may do so for days."""
        return bool(self._enrolment_problem) if self._parts is None else self._parts.is_ready

    def _summary(self) -> str:
        if self._parts is not None:
            return self._parts.summary()
        return f"not enrolled: {self._enrolment_problem}" if self._enrolment_problem else "starts"

    def _read_status(self) -> Status:
        base = Status(
            device=self._config.device,
            version=dsops.__version__,
            pid=os.getpid(),
            updated=self._clock.now().astimezone(UTC),
            inference_socket=str(self._config.inference_socket),
            problems={"enrolment": self._enrolment_problem} if self._enrolment_problem else {},
        )
        if self._parts is None or self._renewer is None:
            return base
        return self._parts.status(base, {"identity": self._renewer.problem})
