"""The composition root of ``dsops server run``: starts a fixed set of named threads, and stops them all.

rest               HTTPS (uvicorn)                     ingest   gRPC for devices, two ports (grpc.aio)
inbox              commits what devices upload         lake     moves it into the lake     lake-upkeep   tends that
broker-link        the MQTT session                    broker-intake, broker-publisher   what comes, what goes
broker-checkup     tries the broker out
revocations        the broker's lists of who is shut out   evictions   ends the sessions of those
rollouts           the rollout driver                  deltas   makes what rollouts offer to devices that have the base
otlp               sends the fleet's figures to an OpenTelemetry receiver
alerts             notes what is wrong with the fleet, and tells of it
retraining         asks for models to be trained anew, and hands requests over
upkeep             renews trust metadata, forgets silent strangers
"""

import errno
import fcntl
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from types import FrameType

from dsops.clock import Clock, SystemClock
from dsops.errors import AlreadyRunning, Conflict, DeviceError, DsopsError, InvalidConfig, PortBusy
from dsops.files import write_atomically
from dsops_controller.dataops.lake.upkeep import Rota
from dsops_controller.db import migrate
from dsops_controller.db.database import Database
from dsops_controller.fleet.ca import Authority
from dsops_controller.server import tls
from dsops_controller.server.config import ServerConfig, load_config
from dsops_controller.server.parts import Parts, assemble
from dsops_controller.server.rest.service import RestService

log = logging.getLogger(__name__)

STATE_FILE = "server.json"
JOIN_S = 3.0
UPKEEP_S = 60.0
LOOK_S = 0.25

Loop = Callable[[threading.Event], None]


class Server:
    """The controller's service over one state folder.

    Args:
        folder: The state folder.
        clock: Tells the time.
        is_alone: Whether the process does nothing else, so that what is there at the start stays until the end.

    Raises:
        InvalidConfig: ``controller.toml`` is absent or wrong.
    """

    def __init__(self, folder: Path, clock: Clock | None = None, *, is_alone: bool = False) -> None:
        self._folder = folder.resolve()
        self._config = load_config(folder)
        self._clock = clock or SystemClock()
        self._is_alone = is_alone
        self._stop = threading.Event()
        self._failed = ""
        self._was_signalled = False

    def stop(self) -> None:
        """Have :meth:`run` return; from any thread."""
        self._stop.set()

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or :meth:`stop`. Signals are taken only in the main thread.

        Raises:
            AlreadyRunning: Another process serves the folder.
            PortBusy: A port is in use; the text names it.
            StateDamaged: State in the folder cannot be read.
            DeviceError: A thread ended by itself.
        """
        _log_to_stderr()
        with _lock(self._folder), self._signals():
            _check_ports(self._config)
            db = Database(self._config.database_url(self._folder))
            try:
                migrate.upgrade(db)
                authority = Authority.load(self._folder / "ca", self._clock)
                for name in tls.renew(self._folder, authority, self._clock):
                    log.warning("issued the certificate %s again; restart the broker to have it use it", name)
                parts = assemble(self._folder, self._config, db, authority, self._clock)
                with settled() if self._is_alone else nullcontext():
                    self._serve(parts)
            finally:
                db.close()
        if self._failed:
            raise DeviceError(f"the server stopped because its thread {self._failed} ended", hint="see its log")

    def _serve(self, parts: Parts) -> None:
        files = tls.server_credentials(self._folder)
        rest = RestService(parts.rest, self._config.rest.host, self._config.rest.port, files.certificate, files.key)
        loops = threading.Event()
        threads = [_thread(name, self._guarded(name, loop), loops) for name, loop in self._loops(parts).items()]
        parts.lake.open()
        parts.inbox.start()
        try:
            parts.ingest.start()
            try:
                rest.start()
                for thread in threads:
                    thread.start()
                self._say_ready()
                while not self._was_signalled and not self._stop.wait(LOOK_S):
                    continue
                self._stop.set()
            finally:
                log.info("stopping")
                (self._folder / STATE_FILE).unlink(missing_ok=True)
                rest.stop()
                parts.ingest.stop()
        finally:
            parts.broker.say_goodbye()
            loops.set()
            parts.driver.wake()
            parts.retraining.wake()
            parts.watch.wake()
            parts.broker.wake()
            _join(threads)
            parts.inbox.stop()

    def _loops(self, parts: Parts) -> dict[str, Loop]:
        return {
            "broker-link": parts.broker.link,
            "broker-intake": parts.broker.intake,
            "broker-publisher": parts.broker.publisher,
            "revocations": parts.revocations.run,
            "evictions": parts.expulsion.run,
            "broker-checkup": parts.checkup.run,
            "rollouts": lambda stop: parts.driver.run(stop, self._config.rollout.tick_s),
            "deltas": parts.workshop.run,
            "lake": lambda stop: self._flush(parts, stop),
            "retraining": parts.retraining.run,
            "alerts": parts.watch.run,
            "otlp": parts.exporter.run,
            "lake-upkeep": lambda stop: self._tend(parts, stop),
            "upkeep": lambda stop: self._upkeep(parts, stop),
        }

    def _guarded(self, name: str, loop: Loop) -> Loop:
        def run(stop: threading.Event) -> None:
            try:
                loop(stop)
            except Exception:  # a server that has lost a part must not look alive
                log.exception("thread %s broke", name)
            if not stop.is_set():
                self._failed = name
                self._stop.set()

        return run

    def _flush(self, parts: Parts, stop: threading.Event) -> None:
        told = ""
        while not stop.wait(self._config.store.flush_s):
            try:
                parts.lake.flush()
                told = ""
            except DsopsError as error:
                told = _tell_once(told, f"the lake waits: {error}")

    def _tend(self, parts: Parts, stop: threading.Event) -> None:
        """Tend the lake every so often, and when a day has closed."""
        told = ""
        rota = Rota(self._clock, self._config.store.upkeep_s)
        while not stop.wait(self._config.store.flush_s):
            try:
                if rota.is_due():
                    parts.lake_upkeep.tend()
                told = ""
            except Conflict:
                log.info("another controller tends the lake")
            except DsopsError as error:
                told = _tell_once(told, f"the lake's upkeep waits: {error}")

    def _upkeep(self, parts: Parts, stop: threading.Event) -> None:
        told = warned = ""
        while True:
            try:
                if parts.repository.is_established:
                    if parts.repository.renew():
                        parts.outbox.trust()
                    warned = _tell_once(warned, _due(parts.repository.due()))
                parts.enrolment.forget_silent()
                told = ""
            except DsopsError as error:
                told = _tell_once(told, f"the upkeep waits: {error}")
            if stop.wait(UPKEEP_S):
                return

    def _say_ready(self) -> None:
        config = self._config
        listening = {
            "rest": f"https://{_address(config.rest.host, config.rest.port)}",
            "ingest": _address(config.ingest.host, config.ingest.port),
            "enrolment": _address(config.enrolment.host, config.enrolment.port),
            "broker": _address(config.broker.host, config.broker.port),
        }
        state = json.dumps({"pid": os.getpid(), **listening}, indent=2)
        write_atomically(self._folder / STATE_FILE, state.encode())
        sys.stdout.write("ready: " + " ".join(f"{name} {where}" for name, where in listening.items()) + "\n")
        sys.stdout.flush()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def take(_number: int, _frame: FrameType | None) -> None:
            self._was_signalled = True  # not the event: its lock may be held by the very code that is interrupted

        before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the kernel gives it back however the process ends."""
    with (folder / "server.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(f"another server runs in {folder}", why="it holds server.lock") from error
        yield


def _check_ports(config: ServerConfig) -> None:
    for name, listener in (("rest", config.rest), ("ingest", config.ingest), ("enrolment", config.enrolment)):
        _check_port(name, listener.host, listener.port)


def _check_port(name: str, host: str, port: int) -> None:
    where = _address(host, port)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(f"{name}: {where} is in use", hint=f"change [{name}] port in controller.toml") from error
        raise InvalidConfig(f"{name}: cannot listen on {where}", why=error.strerror or str(error)) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def settled() -> Iterator[None]:
    """Spare what is there now the garbage collector: to look through it all takes 60 ms, in which no thread goes on.

    An answer about 10,000 devices makes so many values that every other one was held up by that.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _thread(name: str, loop: Loop, stop: threading.Event) -> threading.Thread:
    # A daemon, so that one that hangs cannot keep the process; what is acknowledged is durable already.
    return threading.Thread(target=loop, args=(stop,), name=name, daemon=True)


def _join(threads: list[threading.Thread]) -> None:
    deadline = time.monotonic() + JOIN_S
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, deadline - time.monotonic()))


def _due(roles: Mapping[str, datetime]) -> str:
    """Return what to say of roles that people should sign again; nothing when there are none."""
    if not roles:
        return ""
    listed = ", ".join(f"{role} ({expires:%Y-%m-%d})" for role, expires in sorted(roles.items()))
    return f"trust metadata expires soon: {listed}; sign it again: dsops trust renew {' '.join(sorted(roles))} EVENT"


def _tell_once(told: str, text: str) -> str:
    if text and text != told:
        log.warning(text)
    return text


def _log_to_stderr() -> None:
    """Write one line a record on standard error, unless the program that embeds the server has set up logging."""
    if not logging.getLogger().handlers:
        form = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)
        for chatty in ("alembic", "uvicorn.error"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
