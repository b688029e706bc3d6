"""Light agents in one process: ``python -m measure.swarm SETTINGS`` with settings as JSON.

Says ``ready`` when all are connected, begins when a line comes, and answers with one JSON line when all are done.
"""

import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dsops.errors import TransferFailed
from measure.broker import HOST, context, light_credentials
from measure.child import answer_once
from measure.light import Errand, LightAgent
from measure.watched import Watched

CONNECTS_AT_ONCE = 50
"""Below the backlog of mosquitto's listener, 100: beyond it the kernel lets first packets wait a second."""
TICK_S = 0.2
AWAY_S = 0.05


@dataclass(frozen=True)
class Settings:
    """What a swarm shall do.

    Attributes:
        agents: How many there are.
        port: Of the broker.
        keys: Folder of ``ca.crt`` and the certificate that all show; empty for no TLS.
        index: Digest of the chunk index.
        check_every: Of so many chunks the digest of one is checked.
        interruptions: How often each one is killed or cut off, at a random share of its chunks.
        seed: Of these shares.
        patience_s: After so long there is no result.
    """

    agents: int
    port: int
    keys: str
    index: str
    check_every: int = 1
    interruptions: int = 0
    seed: int = 1
    patience_s: float = 300.0

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Result:
    """What a swarm did: seconds until the last was done, bytes that came to each, processor time."""

    took_s: float
    mean_bytes: float
    most_bytes: int
    interruptions: int
    cpu_s: float


class Swarm:
    """The agents and the loop that serves them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        tls = context(light_credentials(Path(settings.keys))) if settings.keys else None
        errand = Errand((HOST, settings.port), tls, settings.index, settings.check_every)
        self._agents = [LightAgent(f"light-{number}", errand) for number in range(settings.agents)]
        self._lines = Watched()
        self._by_fd: dict[int, LightAgent] = {}
        self._waiting: dict[str, LightAgent] = {agent.name: agent for agent in self._agents}
        """Those without a connection; they connect a few at a time."""
        self._due: dict[str, list[float]] = {
            agent.name: self._shares(number) for number, agent in enumerate(self._agents)
        }
        self._draw = random.Random(settings.seed)
        self._back: list[tuple[float, LightAgent]] = []
        self._ticked_s = 0.0

    def gather(self) -> None:
        """Connect all."""
        ends_s = time.monotonic() + self._settings.patience_s
        while not all(agent.is_connected for agent in self._agents):
            self._turn(ends_s)

    def fetch(self) -> Result:
        """Have all fetch the bundle."""
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        for agent in self._agents:
            agent.begin(began_s)
            self._watch(agent)
        while not all(agent.done_s is not None for agent in self._agents):
            self._turn(began_s + self._settings.patience_s)
        took_s = max(agent.done_s or 0.0 for agent in self._agents) - began_s
        each = [agent.total_bytes for agent in self._agents]
        interruptions = sum(agent.interruptions for agent in self._agents)
        return Result(took_s, sum(each) / len(each), max(each), interruptions, time.process_time() - began_cpu_s)

    def _shares(self, number: int) -> list[float]:
        """Return at which shares an agent is interrupted, the last one first."""
        draw = random.Random(self._settings.seed * 100_003 + number)
        return sorted((draw.random() for _ in range(self._settings.interruptions)), reverse=True)

    def _turn(self, ends_s: float) -> None:
        self._connect_some()
        for fd in self._lines.ready(0.05):
            agent = self._by_fd[fd]
            agent.turn(time.monotonic())
            self._interrupt_if_due(agent)
            if agent.line:
                self._watch(agent)
        now_s = time.monotonic()
        if now_s - self._ticked_s > TICK_S:
            self._ticked_s = now_s
            self._tick(now_s, ends_s)

    def _tick(self, now_s: float, ends_s: float) -> None:
        if now_s > ends_s:
            done = sum(agent.done_s is not None for agent in self._agents)
            raise TransferFailed(
                "light agents did not get the bundle in time", why=f"{done} of {len(self._agents)} did"
            )
        for agent in self._agents:
            if agent.done_s is None:
                agent.tick(now_s)
                if agent.line:
                    self._watch(agent)

    def _connect_some(self) -> None:
        now_s = time.monotonic()
        for at_s, agent in self._back:
            if at_s <= now_s:
                self._waiting[agent.name] = agent
        self._back = [(at_s, agent) for at_s, agent in self._back if at_s > now_s]
        pending = sum(not agent.is_connected for agent in self._by_fd.values()) if self._waiting else 0
        for agent in list(self._waiting.values())[: max(0, CONNECTS_AT_ONCE - pending)]:
            del self._waiting[agent.name]
            self._by_fd[agent.connect().fileno()] = agent
            self._watch(agent)

    def _watch(self, agent: LightAgent) -> None:
        assert agent.line is not None
        self._lines.watch(agent.line)

    def _interrupt_if_due(self, agent: LightAgent) -> None:
        due = self._due[agent.name]
        if not due or agent.done_s is not None or not agent.is_connected or agent.progress < due[-1]:
            return
        due.pop()
        assert agent.line is not None
        del self._by_fd[agent.line.fileno()]
        self._lines.forget(agent.line)
        agent.interrupt(kill=self._draw.random() < 0.5)
        self._back.append((time.monotonic() + self._draw.random() * AWAY_S, agent))


def main() -> None:
    """Connect, wait for the word, fetch, tell what came of it."""
    swarm = Swarm(Settings(**json.loads(sys.argv[1])))
    swarm.gather()
    answer_once(lambda: asdict(swarm.fetch()))


if __name__ == "__main__":
    main()
