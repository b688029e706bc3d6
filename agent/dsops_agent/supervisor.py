"""Keeps the inference process running, and speaks to it for the rest of the control process."""

import logging
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dsops.clock import Clock
from dsops.errors import (
    ChallengerAway,
    DeviceError,
    DsopsError,
    InvalidInput,
    NotFound,
    NotServing,
    RuntimeBusy,
    RuntimeCrashed,
)
from dsops.sealing import ContentKey
from dsops_agent.hangs import MOST_GAP_S
from dsops_agent.heartbeats import Beat, unwatched
from dsops_agent.install.ports import Death, ProveLimits, Support, Suspect
from dsops_agent.operators import Accelerated, OperatorQuery
from dsops_agent.proof import Prover
from dsops_agent.rival import Rival
from dsops_agent.runtime.channel import Header
from dsops_agent.runtime.figures import Figures
from dsops_agent.runtime.flight import InFlight, forget_flight, has_fault, read_crashed
from dsops_agent.runtime.records import Reason
from dsops_agent.runtime_process import (
    SILENT_S,
    Launch,
    RuntimeProcess,
    Starting,
    adopt,
    await_answer,
    describe_exit,
    start,
)
from dsops_agent.runtime_watch import Lost, RuntimeWatch
from dsops_agent.telemetry.collect import SpoolEvents
from dsops_agent.telemetry.spool import Delivery, Spool
from dsops_agent.telemetry.worth import KINDS, Kind

logger = logging.getLogger(__name__)

FIRST_WAIT_S, MOST_WAIT_S = 0.2, 10.0
STEADY_S = 60.0
"""A process that lived so long is started again without delay."""
ACTIVATE_S = 60.0
CHECK_S = 180.0
"""All golden inputs, on a busy device: far longer than the runtime is gentle to callers meanwhile."""


@dataclass(frozen=True)
class Told:
    """Who is told of the inference process, on the thread that keeps it running.

    Attributes:
        started: Called with true after the first start, with false after each other one.
        died: Called with each end that nobody asked for, before the next start.
    """

    started: Callable[[bool], None]
    died: Callable[[Death], None]


class RuntimeSupervisor:
    """Starts or takes over the inference process and starts it again when it ends; implements ``RuntimeControl``.

    :meth:`run` is the body of a thread. Once :meth:`leave` was called, a request that fails because the process is
    being ended raises SystemExit instead of RuntimeCrashed: it ends the calling thread, so that nobody takes the end
    of the agent for a fault of a bundle. With a challenger's process, which is ended for other reasons too, and gets
    the processor last, it raises ChallengerAway for whatever is no crash.

    Args:
        launch: How to start the process.
        prover: Tries bundles.
        spool: Takes the process's records.
        events: Is told of restarts.
        clock: Time.
        told: Who is told of starts and ends.
    """

    def __init__(
        self,
        launch: Launch,
        prover: Prover,
        spool: Spool,
        events: SpoolEvents,
        clock: Clock,
        told: Told,
    ) -> None:
        self._launch = launch
        self._prover = prover
        self._spool = spool
        self._events = events
        self._clock = clock
        self._told = told
        self._operators = OperatorQuery()
        self._delegate = Accelerated()
        self._leaving = threading.Event()
        self._bundle = ("", 0)
        self._process: RuntimeProcess | None = None
        self._rss_bytes = 0
        self._works: set[object] = set()
        self._wished: tuple[int, list[dict[str, object]]] = (0, [])
        self.ready = threading.Event()
        """Set once the process answered for the first time."""
        self.beat: Beat = unwatched
        """Is told of each look at the process; set before :meth:`run`, as is ``early``."""
        self.early: Callable[[], Starting | None] = lambda: None
        """Returns a process that was started already, once."""
        self.wishes: Callable[[], list[dict[str, object]]] = list
        """Returns which samples somebody asked for; set before :meth:`run`."""
        self.newest_death: Death | None = None
        """The newest end of the process that nobody asked for."""
        self.held_back = ""
        """Why requests are held back, as the newest look at the process said; empty when they are not."""

    @property
    def pid(self) -> int | None:
        """The inference process, or None while there is none."""
        process = self._process
        return None if process is None or process.channel.closed.is_set() else process.pid

    @property
    def rss_bytes(self) -> int:
        """Memory of the inference process, as it said at the newest look; 0 while there is none."""
        return self._rss_bytes if self.pid else 0

    @property
    def delegate_problem(self) -> str:
        """Why models run on the processor instead of the delegate that the configuration names; empty: they do not."""
        return self._delegate.problem

    # The thread that keeps the process running.

    def run(self) -> None:
        """Keep a process running until :meth:`leave`, then end it."""
        wait_s = FIRST_WAIT_S
        is_first = True
        while not self._leaving.is_set():
            began_s = self._clock.monotonic_s()
            try:
                self._process = self._begin(adopting=is_first)
                self._is_healthy(self._process)
                self.ready.set()
                self._told.started(is_first)
                is_first = False
                self._follow(self._process)
            except RuntimeCrashed as error:
                logger.warning("%s", error)
            except Exception:
                logger.exception("keeping the inference process running failed")
            if self._clock.monotonic_s() - began_s > STEADY_S:
                wait_s = FIRST_WAIT_S
            self.beat(wait_s)
            self._leaving.wait(wait_s)
            wait_s = min(MOST_WAIT_S, 2 * wait_s)
        if self._process is not None:
            self._process.end()
            forget_flight(self._launch.run_folder)  # one that had to be killed leaves it behind

    def leave(self) -> None:
        """Make :meth:`run` end the process and return."""
        self._leaving.set()
        self._prover.abort()

    def _begin(self, *, adopting: bool) -> RuntimeProcess:
        self._launch.run_folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # others may ask for inference
        starting = self.early()
        if starting is None and adopting and (found := adopt(self._launch, self._handle)) is not None:
            return found
        starting = starting or start(self._launch)
        if adopting and starting.lost is not None:
            self.newest_death = death = _unwatched_death(starting.lost)
            self._told.died(death)
            self._tell_of_restart(death.why)
        return await_answer(starting, self._launch, self._handle, self._clock, self._leaving.wait)

    def _follow(self, process: RuntimeProcess) -> None:
        """Return when the agent leaves; raise RuntimeCrashed when the process is gone or silent, after ending it."""
        lost = self._await_end(process)
        if lost is None:
            return
        was_gone = process.channel.closed.is_set()
        was_killed_here = self._end(process, is_hung=lost.is_hung)
        self._process = None
        if self._leaving.is_set():
            return
        death = self._explain(process, lost, ended_itself=was_gone and not was_killed_here)
        self.newest_death = death
        self._told.died(death)
        forget_flight(self._launch.run_folder)  # or it counts once more, should the agent end before the next start
        self._tell_of_restart(f"process {process.pid}: {death.why}")
        raise RuntimeCrashed("the inference process ended and is started again", why=death.why)

    def _end(self, process: RuntimeProcess, *, is_hung: bool) -> bool:
        if not is_hung:
            return process.end()
        process.kill()
        return True

    def _tell_of_restart(self, message: str) -> None:
        """Record that the process ended; of a challenger's also which bundle of which model it had, in which role."""
        of, (digest, release) = self._launch, self._bundle
        if not of.model:
            self._events.event("runtime_restart", code=RuntimeCrashed.code, message=message)
            return
        message = f"challenger ({of.mode}) of {of.model}: {message}"
        self._events.event("challenger_restart", of.model, release, digest, RuntimeCrashed.code, message)

    def _await_end(self, process: RuntimeProcess) -> Lost | None:
        """Return when the process is gone, silent or hung, with the reason; None when the agent leaves."""
        watch = RuntimeWatch(process, self._launch, self._clock.monotonic_s())
        try:
            while not self._leaving.wait(0.1):
                self.beat(0.0)
                if process.channel.closed.is_set():
                    return Lost()
                found = watch.look(self._clock.monotonic_s(), is_at_work=bool(self._works))
                if isinstance(found, Lost):
                    return found
                if found is not None:
                    self._learn(process, found)
        finally:
            watch.close()
        return None

    def _explain(self, process: RuntimeProcess, lost: Lost, *, ended_itself: bool) -> Death:
        """Return whose fault the end of a process may be: of what hangs, else of what ran when it died.

        It is nobody's when somebody else killed it: the kernel does so when memory is short, which whoever asks for
        inference may have brought about. Of a process that another control process started the signal is not known;
        one that crashed has written so.
        """
        folder, stuck = self._launch.run_folder, lost.stuck
        ran = stuck or read_crashed(folder)
        if lost.why:
            return _death(lost.why, ran)
        if stuck:
            why = f"a frame of model {stuck[0].model} took {stuck[0].for_s:.0f} s"
            return Death(why, _suspects(ran), hung_s=stuck[0].for_s)
        how = "it is gone" if process.child is None else describe_exit(process.child.poll())
        can_be_killed = process.child is None or process.child.poll() == -signal.SIGKILL
        if ended_itself and can_be_killed and not has_fault(folder):
            return Death(f"{how}, as the kernel does when memory is short; no model is held to account", is_killed=True)
        return _death(how, ran)

    def _is_healthy(self, process: RuntimeProcess) -> bool:
        try:
            status, _ = process.channel.call("status", timeout_s=self._launch.silent_s)
        except DsopsError as error:
            logger.warning("inference process %d does not answer: %s", process.pid, error)
            return False
        self._learn(process, status)
        return True

    def _learn(self, process: RuntimeProcess, status: Header) -> None:
        """Take note of what the process says of itself."""
        self._delegate = Accelerated.of(status.get("delegate"))
        rss_bytes = status.get("rss_bytes")
        self._rss_bytes = rss_bytes if isinstance(rss_bytes, int) else 0
        self._look_at_throttle(status)
        self._pass_on_wishes(process)

    def _pass_on_wishes(self, process: RuntimeProcess) -> None:
        """Tell the process which samples are asked for, if it was told otherwise before."""
        wishes = self.wishes()
        if (process.pid, wishes) == self._wished:
            return
        try:
            process.channel.call("samples", timeout_s=MOST_GAP_S, wishes=wishes)  # no longer: nobody looks meanwhile
            self._wished = (process.pid, wishes)
        except DsopsError as error:
            logger.warning("inference process %d cannot be asked for samples: %s", process.pid, error)

    def _look_at_throttle(self, status: Header) -> None:
        throttle = status.get("throttle")
        because = throttle.get("because") if isinstance(throttle, dict) else ""
        because = because if isinstance(because, str) else ""
        if bool(because) != bool(self.held_back):
            self._events.event("inference_held_back" if because else "inference_free", message=because)
        self.held_back = because

    # What the installer asks for.

    def supports(self, operators: tuple[str, ...]) -> Support:
        """Ask a throw-away process which operators it can run; see :meth:`dsops_agent.operators.OperatorQuery.ask`.

        Those that a delegate brings are known as long as the inference process can use it.
        """
        delegate = self._delegate
        found = self._operators.ask(tuple(name for name in operators if not delegate.brings(name)))
        return replace(found, delegates=delegate.usable)

    def prove(self, path: Path, limits: ProveLimits, key: ContentKey | None, ended: threading.Event) -> None:
        """Try a bundle in a throw-away process; see :meth:`dsops_agent.proof.Prover.prove`.

        What could not be tried with the delegate is told as an event ``delegate_unproven``.
        """
        try:
            proved = self._prover.prove(path, limits, key, ended, self._delegate.problem)
        except RuntimeCrashed as error:
            raise self._unless_leaving(error) from error
        if why := proved.unproven:
            logger.warning("release %d of %s was not tried with the delegate: %s", proved.release, proved.model, why)
            model, release, digest = proved.model, proved.release, proved.digest
            self._events.event("delegate_unproven", model, release, digest, message=f"not tried with it: {why}")

    def activate(self, model: str, path: Path, digest: str, release: int, key: ContentKey | None = None) -> None:
        """Change a model over to a bundle without losing a request. A sealed one's key goes over the control channel.

        Raises:
            RuntimeCrashed: The process is gone or silent.
            DsopsError: It refused the bundle; what was served before is served still.
        """
        body = b"" if key is None else key.data
        self._bundle = (digest, release)
        self._ask("activate", ACTIVATE_S, body, model=model, path=str(path), digest=digest, release=release)

    def check(self, model: str) -> None:
        """Run the golden inputs on the live model.

        Raises:
            GoldenMismatch: It answers something else.
            RuntimeBusy: The process lives, and the check takes too long.
            RuntimeCrashed: The process is gone or silent.
        """
        process = self._process
        try:
            self._ask("check", CHECK_S, model=model)
        except ChallengerAway:
            raise
        except NotServing as error:  # it ends, and gave the check up
            raise RuntimeCrashed(f"the golden inputs of {model} were not answered", why=str(error)) from error
        except RuntimeCrashed as error:
            if process is not self._process:  # it was ended meanwhile
                raise
            self._ask("status", SILENT_S)
            raise RuntimeBusy(f"the golden inputs of {model} were not answered in time", why=error.why) from error

    def deactivate(self, model: str) -> None:
        """Stop serving a model; one that is not served is no error.

        Raises:
            RuntimeCrashed: The process is gone or silent.
        """
        try:
            self._ask("deactivate", ACTIVATE_S, model=model)
        except NotFound:
            logger.debug("model %s was not served", model)

    def figures(self, model: str) -> Figures | None:
        """Return what the bundle that serves a model did since its activation; None when none does.

        Raises:
            RuntimeCrashed: The process is gone or silent.
        """
        models = self._ask("status", SILENT_S).get("models")
        entry = models.get(model) if isinstance(models, dict) else None
        return Figures.parse(entry.get("health")) if isinstance(entry, dict) else None

    def compare(self, rivals: Mapping[str, Rival]) -> None:
        """Have these challengers compared with their champions, and no other.

        Raises:
            RuntimeCrashed: The process is gone or silent.
        """
        told = {model: rival.model_dump(mode="json") for model, rival in rivals.items()}
        self._ask("compare", SILENT_S, rivals=told)

    def is_serving(self, model: str, digest: str) -> bool:
        """Return whether the model answers from that bundle; False when the process is gone."""
        try:
            models = self._ask("status", SILENT_S).get("models")
        except DsopsError as error:
            logger.warning("cannot ask what is served: %s", error)
            return False
        entry = models.get(model) if isinstance(models, dict) else None
        return isinstance(entry, dict) and entry.get("digest") == digest

    def _ask(self, op: str, timeout_s: float, body: bytes = b"", **fields: object) -> Header:
        process, work = self._process, object()
        if op != "status":
            self._works.add(work)  # one step, as to discard it: several threads ask
        try:
            answer, _ = _there(process).channel.call(op, body, timeout_s, **fields)
        except RuntimeCrashed as error:
            if self._launch.model:
                raise self._unless_away(error, process) from error
            raise self._unless_leaving(error) from error
        finally:
            self._works.discard(work)
        return answer

    def _unless_leaving(self, error: RuntimeCrashed) -> BaseException:
        return SystemExit(0) if self._leaving.is_set() else error

    def _unless_away(self, error: RuntimeCrashed, process: RuntimeProcess | None) -> RuntimeCrashed:
        """Return why a challenger's process gave no answer: it crashed, or it is away through no fault of its own."""
        if process is not None and process.channel.closed.is_set() and not self._leaving.is_set():
            return error
        return ChallengerAway(f"the challenger of {self._launch.model} does not answer", why=error.why or error.what)

    # What the process asks for.

    def _handle(self, op: str, header: Header, body: bytes) -> tuple[Header, bytes]:
        if op != "records":
            raise InvalidInput(f"{op!r} is not known")
        delivery = read_delivery(header, body)
        try:
            self._spool.take(delivery)
        except DeviceError as error:  # counted as dropped: to send them again would count them twice
            logger.warning("records of the inference process were dropped: %s", error)
            return {"stored": 0}, b""
        return {"stored": sum(map(len, delivery.records.values()))}, b""


def _death(how: str, ran: tuple[InFlight, ...]) -> Death:
    named = ", ".join(sorted({one.model for one in ran}))
    return Death(f"{how}, with a frame of {named} in flight" if named else how, _suspects(ran))


def _unwatched_death(ran: tuple[InFlight, ...]) -> Death:
    """Return what a death is that nobody saw; where nothing is known to have run, it may as well have been killed."""
    return replace(_death("it ended while no control process was there", ran), is_killed=not ran)


def _suspects(ran: tuple[InFlight, ...]) -> tuple[Suspect, ...]:
    """Return the bundles, each once: several instances of one may have run."""
    return tuple(dict.fromkeys(Suspect(one.model, one.digest) for one in ran))


def _there(process: RuntimeProcess | None) -> RuntimeProcess:
    if process is None:
        raise RuntimeCrashed("the inference process is not running", why="it is being started")
    return process


def read_delivery(header: Header, body: bytes) -> Delivery:
    """Return what a ``records`` request hands over.

    Raises:
        InvalidInput: The header does not describe the body.
    """
    kinds, sizes, lost = header.get("kinds"), header.get("sizes"), header.get("lost", {})
    source, number = header.get("source", ""), header.get("batch", 0)
    if (
        not isinstance(kinds, list)
        or not isinstance(sizes, list)
        or not isinstance(lost, dict)
        or not isinstance(source, str)
        or not isinstance(number, int)
        or not all(isinstance(size, int) and size >= 0 for size in sizes)
        or len(kinds) != len(sizes)
        or sum(sizes) != len(body)
        or not all(kind in KINDS for kind in (*kinds, *lost))
        or not all(_are_losses(counts) for counts in lost.values())
    ):
        raise InvalidInput("the records' header does not describe them")
    records: dict[Kind, list[bytes]] = {kind: [] for kind in KINDS}
    start = 0
    for kind, size in zip(kinds, sizes, strict=True):
        records[kind].append(body[start : start + size])
        start += size
    return Delivery(records, lost, (source, number))


def _are_losses(counts: object) -> bool:
    """Whether something is a number of records by each reason for which they are not handed over."""
    return isinstance(counts, dict) and all(
        reason in set(Reason) and isinstance(count, int) and count >= 0 for reason, count in counts.items()
    )
