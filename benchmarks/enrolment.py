"""How long 1,000 devices take to join: token, key, request, certificate, first session with the broker.

Ours: ``dsops server run`` and a real mosquitto with the product's configuration, and the agent's own code in two other
processes, all on this machine, over loopback. The peer is the floor below it: the same keys, requests, signatures and
TLS handshakes in memory, in as many processes, with no controller, broker, database or network.
"""

import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from measure.broker import HOST, running
from measure.child import child, stop
from measure.joining import AT_ONCE, Task
from measure.report import Limit, Report, Row, run

from dsops.errors import ServerUnreachable, TimedOut
from dsops_controller.client import Access, Client
from dsops_controller.demo.ports import free_ports
from dsops_controller.server.init import Ports, init_server

DEVICES = 1000
PROCESSES = 2
TOKEN_S = 3600
SETTLE_S = 60.0
AGAINST = "cryptography alone"
TIME_LIMIT = Limit("figure", "<=", 60.0)


@dataclass(frozen=True)
class Joined:
    """What it took until the last device had joined; ``each_s`` of each device."""

    took_s: float
    each_s: tuple[float, ...]
    controller_s: float
    broker_s: float
    clients_s: float


@contextmanager
def controller(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``dsops server run``.

    Raises:
        ServerUnreachable: It does not start.
    """
    with (folder.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dsops_controller.cli.app", "server", "run", str(folder)],
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith(b"ready:"):
            raise ServerUnreachable("the controller did not start", why=(folder.parent / "server.log").read_text())
        yield process
    finally:
        stop(process)


def processor_s(pid: int) -> float:
    """Return the processor time that a process used so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def shares(tokens: dict[str, str]) -> list[dict[str, str]]:
    """Return the tokens in as many parts as there are processes."""
    items = list(tokens.items())
    return [dict(items[first::PROCESSES]) for first in range(PROCESSES)]


def let_join(way: str, folder: Path, tasks: list[Task], settle: Callable[[], None]) -> tuple[float, list[float], float]:
    """Let the processes work at once; return seconds in all, of each device, and the processes' processor time."""
    with ExitStack() as made:
        workers = []
        for number, _ in enumerate(tasks):
            place = folder / f"{way}-{number}"
            place.mkdir()
            workers.append(made.enter_context(child("measure.joining", way, str(place))))
        before_s = sum(processor_s(worker.pid) for worker in workers)
        began_s = time.monotonic()
        for worker, task in zip(workers, tasks, strict=True):
            assert worker.stdin is not None
            worker.stdin.write(task.encode() + "\n")
            worker.stdin.flush()
        each_s: list[float] = []
        for worker in workers:
            assert worker.stdout is not None
            each_s += json.loads(worker.stdout.readline())
        settle()
        took_s = time.monotonic() - began_s
        return took_s, each_s, sum(processor_s(worker.pid) for worker in workers) - before_s


def joined_fleet(folder: Path) -> tuple[Joined, float]:
    """Let all devices join a new controller; return what it took, and the seconds to make the tokens."""
    state = folder / "server"
    ports = Ports(*free_ports(4))
    init_server(state, fleet="benchmark", host=HOST, ports=ports)
    with ExitStack() as made:
        broker = made.enter_context(running(state / "mosquitto/mosquitto.conf", ports.broker, folder / "broker.log"))
        server = made.enter_context(controller(state))
        client = Client(Access.load(state / "operator.toml"))
        made.callback(client.close)
        began_s = time.monotonic()
        tokens = {name: client.new_token(name, TOKEN_S)["token"] for name in _names()}
        tokens_s = time.monotonic() - began_s
        before = processor_s(server.pid), processor_s(broker.pid)
        tasks = [Task(f"{HOST}:{ports.enrolment}", str(state / "ca" / "ca.crt"), share) for share in shares(tokens)]
        took_s, each_s, clients_s = let_join("agents", folder, tasks, lambda: wait_for_births(client))
        after = processor_s(server.pid), processor_s(broker.pid)
    return Joined(took_s, tuple(each_s), after[0] - before[0], after[1] - before[1], clients_s), tokens_s


def _names() -> list[str]:
    return [f"cam-{number:04}" for number in range(DEVICES)]


def wait_for_births(client: Client) -> None:
    """Wait until the controller has taken the birth of every device.

    Raises:
        TimedOut: It has not.
    """
    ends_s = time.monotonic() + SETTLE_S
    while time.monotonic() < ends_s:
        born = [row for row in client.devices() if row["state"] == "accepted" and row["seen"]]
        if len(born) == DEVICES:
            return
        time.sleep(0.1)
    raise TimedOut("not every birth came to the controller", why=f"{len(born)} of {DEVICES}")


def measure() -> Report:
    """Let the fleet join, then do the bare cryptography."""
    logging.getLogger("dsops_agent").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        ours, tokens_s = joined_fleet(Path(name))
        tasks = [Task("", "", share) for share in shares(dict.fromkeys(_names(), ""))]
        bare_s, bare_each_s, bare_clients_s = let_join("bare", Path(name), tasks, lambda: None)
    cuts, bare_cuts = (statistics.quantiles(each, n=100) for each in (ours.each_s, bare_each_s))
    rows = (
        Row("until the last has joined", "s", ours.took_s, bare_s, AGAINST, TIME_LIMIT),
        Row("devices that join", "1/s", DEVICES / ours.took_s, DEVICES / bare_s, AGAINST),
        Row("one device, p50", "ms", 1000 * cuts[49], 1000 * bare_cuts[49], AGAINST),
        Row("one device, p99", "ms", 1000 * cuts[98], 1000 * bare_cuts[98], AGAINST),
        Row("controller, processor", "s", ours.controller_s),
        Row("broker, processor", "s", ours.broker_s),
        Row("devices, processor", "s", ours.clients_s, bare_clients_s, AGAINST),
        Row("tokens, made one by one over REST", "s", tokens_s),
    )
    facts = {"devices": DEVICES, "processes of devices": PROCESSES, "at once": AT_ONCE * PROCESSES}
    return Report("enrolment", "Devices that join, controller and broker on the same machine", facts, rows)


if __name__ == "__main__":
    sys.exit(run(measure))
