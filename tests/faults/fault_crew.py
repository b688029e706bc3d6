"""A worker a core of this test process's share: hands faults out, gathers what came of them, and adds them up."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from queue import SimpleQueue
from typing import Any

HERE = Path(__file__).parent
WORKERS = max((os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), 1)


class WorkerProcess:
    """One worker; see fault_worker."""

    def __init__(self, kit: Path, scratch: Path) -> None:
        environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": f"{HERE}:{HERE.parent / 'security'}"}
        command = [sys.executable, str(HERE / "fault_worker.py"), str(kit), str(scratch)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout

    def ask(self, do: str, **request: Any) -> Any:
        self._requests.write(json.dumps({"do": do, **request}) + "\n")
        self._requests.flush()
        line = self._replies.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{request}: {reply['error']}")
        return reply["result"]

    def end(self) -> None:
        self._requests.close()
        self._process.wait(60)
        self._replies.close()


class Crew:
    """Workers that take requests from one list."""

    def __init__(self, kit: Path, scratch: Path, count: int = WORKERS) -> None:
        self.workers = [WorkerProcess(kit, scratch / str(number)) for number in range(count)]
        self._free: SimpleQueue[WorkerProcess] = SimpleQueue()
        for worker in self.workers:
            self._free.put(worker)

    def ask(self, do: str, **request: Any) -> Any:
        worker = self._free.get()
        try:
            return worker.ask(do, **request)
        finally:
            self._free.put(worker)

    def each(self, do: str, **request: Any) -> None:
        """Let every worker do the same."""
        with ThreadPoolExecutor(len(self.workers)) as pool:
            list(pool.map(lambda worker: worker.ask(do, **request), self.workers))

    def strike(self, requests: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Yield each fault with what came of it."""
        listed = list(requests)
        with ThreadPoolExecutor(len(self.workers)) as pool:
            yield from zip(listed, pool.map(lambda request: self.ask("fault", **request), listed), strict=True)

    def end(self) -> None:
        for worker in self.workers:
            worker.end()


@contextmanager
def crew(kit: Path, scratch: Path) -> Iterator[Crew]:
    made = Crew(kit, scratch)
    try:
        yield made
    finally:
        made.end()


@dataclass
class Tally:
    """What came of the faults of one kind.

    Attributes:
        points: Faults that struck.
        missed: Faults that did not, for the call was not made this time.
        bricked: Faults after which the device does not serve.
        lost: Faults after which something acknowledged was gone.
        broken: Faults after which another invariant did not hold.
        unnamed: Faults of the disk that surfaced as an exception of Python.
        named: Faults of the disk that were reported by name; the others were harmless.
        repeated: Events that were told twice.
        examples: The first few that went wrong.
    """

    points: int = 0
    missed: int = 0
    bricked: int = 0
    lost: int = 0
    broken: int = 0
    unnamed: int = 0
    named: int = 0
    repeated: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, request: dict[str, Any], result: dict[str, Any]) -> None:
        self.points += result["hit"]
        self.missed += not result["hit"]
        for kind in ("bricked", "lost", "broken", "unnamed"):
            setattr(self, kind, getattr(self, kind) + bool(result[kind]))
        self.named += result["named"]
        self.repeated += result["repeated"]
        if any(result[kind] for kind in ("bricked", "lost", "broken", "unnamed")):
            wrong = {kind: result[kind] for kind in ("bricked", "lost", "broken", "unnamed") if result[kind]}
            place = f"{request.get('call')} {request.get('number')}"
            self.examples.append(f"{request['story']}, {request['fault']} at {place}: {wrong}")

    def merge(self, other: "Tally") -> None:
        """Add what another process counted."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def line(self) -> str:
        return (
            f"{self.points:5d} points, {self.bricked} bricked, {self.lost} acknowledged state lost, "
            f"{self.broken} other invariants broken, {self.named} reported by name, {self.unnamed} by traceback, "
            f"{self.repeated} events twice, {self.missed} missed"
        )
