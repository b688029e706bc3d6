"""Runs of a delivery: to a swarm of light agents, and to one real agent, with and without interruptions."""

import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsops.errors import TransferFailed
from dsops_agent.identity import Identity
from measure.broker import RunningBroker, broker, cpu_s, resident_mb
from measure.cable import Cable, cable
from measure.child import child
from measure.place import Cargo, Place
from measure.receivers import PACE
from measure.swarm import Settings

LAST_S = 900.0
CHECKED_OF_MANY = 16
"""Of more than ten light agents, every so many chunks are hashed; hashing all would measure one process's hashing."""


@dataclass(frozen=True)
class Seeded:
    """A broker that holds a file, and what it took to bring it there: the controller's process, seconds, processor."""

    running: RunningBroker
    controller: int
    took_s: float
    cpu_s: float


@dataclass(frozen=True)
class SwarmRun:
    """One delivery to light agents; processor times are of the fetching alone, ``seed_cpu_s`` is before it."""

    took_s: float
    bytes_ratio: float
    most_bytes: int
    interruptions: int
    agents_cpu_s: float
    broker_cpu_s: float
    broker_mb: float
    broker_grown_mb: float
    seed_s: float
    seed_cpu_s: float
    controller_cpu_s: float


@dataclass(frozen=True)
class AgentRun:
    """One delivery to a real agent; ``bytes_down`` counts everything below TLS."""

    took_s: float
    cpu_s: float
    grown_mb: float
    bytes_down: int = 0
    interruptions: int = 0


def say(process: "subprocess.Popen[str]") -> None:
    """Have a child go on."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def answer(process: "subprocess.Popen[str]", what: str) -> dict[str, Any]:
    """Wait for the line with which a child answers.

    Raises:
        TransferFailed: It ended without one.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise TransferFailed(f"{what} ended without a result")
    loaded: dict[str, Any] = json.loads(line)
    return loaded


@contextmanager
def seeded(place: Place, cargo: Cargo, folder: Path) -> Iterator[Seeded]:
    """Run a broker with empty state and have the controller's own link publish a file as chunks."""
    with broker(folder, place.keys, light=True) as running:
        arguments = ("chunks", str(running.port), str(place.keys.folder), str(cargo.path))
        with child("measure.sender", *arguments) as sender:
            say(sender)
            sent = answer(sender, "the controller")
            yield Seeded(running, sender.pid, sent["took_s"], sent["cpu_s"])


def to_swarm(place: Place, cargo: Cargo, agents: int, *, tls: bool, interruptions: int = 0) -> SwarmRun:
    """Deliver a file to light agents that are connected already."""
    folder = place.folder / f"swarm-{time.monotonic_ns()}"
    with seeded(place, cargo, folder) as held:
        running = held.running
        settings = Settings(
            agents,
            running.port if tls else running.plain_port,
            str(place.keys.folder) if tls else "",
            cargo.wanted.index,
            1 if agents <= 10 else CHECKED_OF_MANY,
            interruptions,
            patience_s=LAST_S,
        )
        with child("measure.swarm", settings.encode()) as swarm:
            idle_mb = resident_mb(running.pid)
            before_s, controller_s = running.cpu_s, cpu_s(held.controller)
            say(swarm)
            result = answer(swarm, "the swarm")
            return SwarmRun(
                took_s=result["took_s"],
                bytes_ratio=result["mean_bytes"] / cargo.size_bytes,
                most_bytes=result["most_bytes"],
                interruptions=result["interruptions"] // agents,
                agents_cpu_s=result["cpu_s"],
                broker_cpu_s=running.cpu_s - before_s,
                broker_mb=running.peak_mb,
                broker_grown_mb=running.peak_mb - idle_mb,
                seed_s=held.took_s,
                seed_cpu_s=held.cpu_s,
                controller_cpu_s=cpu_s(held.controller) - controller_s,
            )


def _agent(made: ExitStack, place: Place, cargo: Cargo, port: int, staging: Path) -> "subprocess.Popen[str]":
    identity: Identity = place.devices[0]
    wanted = cargo.wanted
    names = (str(place.keys.folder / identity.device), identity.device, str(staging))
    return made.enter_context(
        child("measure.one_agent", str(port), *names, wanted.sha256, str(wanted.length_bytes), wanted.index)
    )


def to_agent(place: Place, cargo: Cargo, held: Seeded, number: int) -> AgentRun:
    """Deliver a file to one real agent that is connected already."""
    staging = place.folder / f"agent-{cargo.size_bytes}-{number}"
    staging.mkdir()
    with ExitStack() as made:
        process = _agent(made, place, cargo, held.running.port, staging)
        say(process)
        return AgentRun(**answer(process, "the agent"))


def to_interrupted_agent(place: Place, cargo: Cargo, held: Seeded, interruptions: int, seed: int) -> AgentRun:
    """Deliver a file to one real agent that is killed, or loses its connection, at random shares of the file."""
    draw = random.Random(seed)
    shares = sorted(draw.random() for _ in range(interruptions))
    kills = [number % 2 == 0 for number in range(interruptions)]
    draw.shuffle(kills)
    staging = place.folder / f"interrupted-{cargo.size_bytes}-{seed}"
    staging.mkdir()
    began_s = time.monotonic()
    with ExitStack() as made:
        line = made.enter_context(cable(held.running.port, None))
        process = _agent(made, place, cargo, line.port, staging)
        say(process)
        for share, kill in zip(shares, kills, strict=True):
            _wait_for_bytes(line, int(share * cargo.size_bytes), process)
            if kill:
                process.kill()
                process.wait()
                process = _agent(made, place, cargo, line.port, staging)
                say(process)
            else:
                line.cut()
        result = answer(process, "the agent")
        return AgentRun(
            time.monotonic() - began_s,
            result["cpu_s"],
            result["grown_mb"],
            sum(line.down_bytes),
            interruptions,
        )


def _wait_for_bytes(line: Cable, least: int, process: "subprocess.Popen[str]") -> None:
    ends_s = time.monotonic() + LAST_S
    while sum(line.down_bytes) < least:
        if process.poll() is not None or time.monotonic() > ends_s:
            raise TransferFailed("an agent stopped before it was interrupted")
        time.sleep(0.0005)


def window_bytes(chunk_bytes: int) -> int:
    """Return the most bytes that a window has under way."""
    return PACE.window * chunk_bytes
