"""The inference processes of challengers: one each, beside that of the champions, so that its end costs no answer."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dsops.direct import direct_path
from dsops.errors import ChallengerAway, RuntimeCrashed
from dsops.modes import Mode
from dsops.sealing import ContentKey
from dsops_agent.config_values import CHALLENGER_NAME, CHALLENGER_SOCKET, SOCKET_PATH_BYTES
from dsops_agent.install.challengers import Endpoint
from dsops_agent.install.places import is_challenger, model_of
from dsops_agent.install.ports import ProveLimits, Support
from dsops_agent.rival import Rival
from dsops_agent.runtime.figures import Figures
from dsops_agent.runtime_process import Launch
from dsops_agent.supervisor import RuntimeSupervisor

logger = logging.getLogger(__name__)

END_S = 8.0


def challenger_folder(run_folder: Path, model: str, mode: Mode) -> Path:
    """Return the run folder of the process of a model's challenger; its sockets have room for their names.

    Each mode has its own: a process that outlived the agent must not be taken over for another mode.
    """
    name = f"{mode.value}-{model}"
    if len(str(direct_path(run_folder / name / CHALLENGER_SOCKET)).encode()) <= SOCKET_PATH_BYTES:
        return run_folder / name
    return run_folder / hashlib.sha256(name.encode()).hexdigest()[:CHALLENGER_NAME]


@dataclass(frozen=True)
class _Process:
    mode: Mode
    supervisor: RuntimeSupervisor
    thread: threading.Thread
    folder: Path


class ChallengerProcesses:
    """Starts and ends the processes. Safe to call from several threads; nothing waits for a process but ``join``.

    Args:
        run_folder: The run folder of the champions' process; each challenger has one below.
        make: Makes the supervisor of one process, from how it is launched and what to call after each start, with
            whether that was the first.
        launch: Returns how a process is launched, from its run folder, model and mode.
        started: Called after each start with the model and whether a process before it ended by itself; one that was
            killed did not, as the kernel does when memory is short, with challengers first.
    """

    def __init__(
        self,
        run_folder: Path,
        make: Callable[[Launch, Callable[[bool], None]], RuntimeSupervisor],
        launch: Callable[[Path, str, Mode], Launch],
        started: Callable[[str, bool], None],
    ) -> None:
        self._run_folder = run_folder
        self._make = make
        self._launch = launch
        self._started = started
        self._processes: Mapping[str, _Process] = {}
        self._changing = threading.Lock()
        self._ending: dict[str, threading.Thread] = {}

    def want(self, modes: Mapping[str, Mode]) -> None:
        """Have a process for the challenger of each of these models, and no other; another mode needs another one."""
        with self._changing:
            kept = {model: process for model, process in self._processes.items() if modes.get(model) is process.mode}
            self._keep(kept)
            made = {model: self._begin(model, mode) for model, mode in modes.items() if model not in kept}
            self._processes = {**kept, **made}

    def give_up(self, model: str) -> None:
        """End the process of a model's challenger, whatever it does now; one that is wanted still is started anew."""
        with self._changing:
            self._keep({name: process for name, process in self._processes.items() if name != model})

    def _keep(self, kept: Mapping[str, _Process]) -> None:
        before, self._processes = self._processes, kept
        for model, process in before.items():
            if model not in kept:
                logger.info("the process of the challenger of %s is ended", model)
                self._ending[model] = process.thread
                process.supervisor.leave()

    def find(self, model: str) -> RuntimeSupervisor | None:
        """Return the supervisor of the process of a model's challenger, if there shall be one."""
        process = self._processes.get(model)
        return process.supervisor if process else None

    def endpoint(self, model: str) -> Endpoint | None:
        """Return where the process of a model's challenger answers; None while it does not."""
        process = self._processes.get(model)
        pid = process.supervisor.pid if process else None
        return Endpoint(str(process.folder / CHALLENGER_SOCKET), pid) if process and pid else None

    def leave(self) -> None:
        """End every process; returns at once."""
        for process in self._processes.values():
            process.supervisor.leave()

    def join(self, timeout_s: float) -> None:
        """Wait until the processes have ended, ``timeout_s`` seconds in all."""
        ends_s = time.monotonic() + timeout_s
        for process in self._processes.values():
            process.thread.join(max(0.0, ends_s - time.monotonic()))

    def _begin(self, model: str, mode: Mode) -> _Process:
        folder = challenger_folder(self._run_folder, model, mode)

        def started(is_first: bool) -> None:
            death = supervisor.newest_death
            self._started(model, not is_first if death is None else not death.is_killed)

        supervisor = self._make(self._launch(folder, model, mode), started)
        before = self._ending.pop(model, None)

        def run() -> None:
            if before is not None:  # two would have twice the memory
                before.join(END_S)
            supervisor.run()

        thread = threading.Thread(target=run, name=f"challenger-{model}", daemon=True)
        thread.start()
        return _Process(mode, supervisor, thread, folder)


class Runtimes:
    """The inference processes as the installer knows them: every place is served by the process that it belongs to.

    Implements ``RuntimeControl`` and ``ChallengerRuntimes``.

    Args:
        champions: The process that programs ask.
        challengers: The processes of challengers.
    """

    def __init__(self, champions: RuntimeSupervisor, challengers: ChallengerProcesses) -> None:
        self._champions = champions
        self._challengers = challengers

    def supports(self, operators: tuple[str, ...]) -> Support:
        """Ask which operators the runtime can run; see :meth:`RuntimeSupervisor.supports`."""
        return self._champions.supports(operators)

    def prove(self, path: Path, limits: ProveLimits, key: ContentKey | None, ended: threading.Event) -> None:
        """Try a bundle in a throw-away process; see :meth:`RuntimeSupervisor.prove`."""
        self._champions.prove(path, limits, key, ended)

    def activate(self, model: str, path: Path, digest: str, release: int, key: ContentKey | None = None) -> None:
        """Have a place served from a bundle; see :meth:`RuntimeSupervisor.activate`."""
        self._of(model).activate(model_of(model), path, digest, release, key)

    def check(self, model: str) -> None:
        """Run the golden inputs on what serves a place; see :meth:`RuntimeSupervisor.check`."""
        self._of(model).check(model_of(model))

    def deactivate(self, model: str) -> None:
        """Stop serving a place. A challenger's process ends with that, and is not asked: it may be one that hangs.

        Raises:
            RuntimeCrashed: The process of the champions is gone or silent.
        """
        if is_challenger(model):
            self._challengers.give_up(model_of(model))
        else:
            self._champions.deactivate(model)

    def figures(self, model: str) -> Figures | None:
        """Return what the bundle that serves a place did; see :meth:`RuntimeSupervisor.figures`."""
        return self._of(model).figures(model_of(model))

    def is_serving(self, model: str, digest: str) -> bool:
        """Return whether a place is served from that bundle; False when the process is gone."""
        try:
            return self._of(model).is_serving(model_of(model), digest)
        except RuntimeCrashed:
            return False

    def want(self, modes: Mapping[str, Mode]) -> None:
        """Have a process for the challenger of each of these models, and no other."""
        self._challengers.want(modes)

    def endpoint(self, model: str) -> Endpoint | None:
        """Return where the process of a model's challenger answers; None while it does not."""
        return self._challengers.endpoint(model)

    def compare(self, rivals: Mapping[str, Rival]) -> None:
        """Have these compared with their champions, and no other.

        Raises:
            RuntimeCrashed: The champions' process is gone or silent.
        """
        self._champions.compare(rivals)

    def _of(self, place: str) -> RuntimeSupervisor:
        if not is_challenger(place):
            return self._champions
        found = self._challengers.find(model_of(place))
        if found is None:
            raise ChallengerAway(f"the challenger of {model_of(place)} has no process", why="it is being started")
        return found
