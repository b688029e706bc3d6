"""A fleet that only stands by, in one process: ``python -m measure.standing SETTINGS`` with settings as JSON.

Each light agent has a persistent session, the agent's two subscriptions and its retained birth, and comes back after a
lost connection as the agent's session does: with its back-off and its constants. Says ``ready`` when all are connected;
after a line comes, it waits until each of them has lost its connection and has got another one, and tells the times.
"""

import heapq
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dsops.errors import BrokerUnreachable
from dsops.messages import Connection
from dsops.topics import Topics
from dsops_agent.backoff import Backoff
from dsops_agent.transport.client import CONNECT_TIMEOUT_S, SESSION_EXPIRY_S
from dsops_agent.transport.mqtt import ANSWER_S, FIRST_WAIT_S, STEADY_S
from dsops_agent.transport.mqtt import Settings as SessionSettings
from measure import packets
from measure.broker import HOST, PREFIX, context, light_credentials
from measure.child import answer_once
from measure.line import Line
from measure.watched import Watched

CONNECTS_AT_ONCE = 50
RECONNECT_MAX_S = float(SessionSettings.reconnect_max_s)
_TOPICS = Topics(PREFIX)


@dataclass(frozen=True)
class Settings:
    """The fleet. Without ``jitter`` every wait is the bound that the agent would draw below, alike for all.

    Attributes:
        agents: How many there are.
        port: Of the broker.
        keys: Folder of the keys; empty for no TLS.
        jitter: Whether waits are drawn at random, as the agent draws them.
        seed: Of the draws.
        patience_s: After so long there is no result.
    """

    agents: int
    port: int
    keys: str
    jitter: bool
    seed: int = 1
    patience_s: float = 600.0

    def encode(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))


@dataclass
class Standing:
    """One light agent. Times are of the system's monotonic clock, which all processes share."""

    name: str
    backoff: Backoff
    line: Line | None = None
    began_s: float = 0.0
    is_up: bool = False
    lost_s: float = 0.0
    attempts: list[float] = field(default_factory=list)
    """When it tried, since it lost its connection."""
    up_s: float = 0.0
    retransmits: int = 0
    connections: int = 0


class Fleet:
    """The agents and the loop that serves them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = context(light_credentials(Path(settings.keys))) if settings.keys else None
        draw: Callable[[], float] = random.Random(settings.seed).random if settings.jitter else lambda: 1.0
        self._agents = [
            Standing(f"light-{number}", Backoff(FIRST_WAIT_S, RECONNECT_MAX_S, draw))
            for number in range(settings.agents)
        ]
        self._lines = Watched()
        self._by_fd: dict[int, Standing] = {}
        self._due: list[tuple[float, int]] = []
        self._pending: dict[int, None] = {}
        self._looked_s = 0.0
        self._up = 0
        self._served_a_second = 0.0

    def gather(self) -> None:
        """Connect all, each as soon as the broker is done with another: as fast as broker and fleet can together."""
        began_s = time.monotonic()
        ends_s, waiting = time.monotonic() + self._settings.patience_s, list(range(len(self._agents)))
        while self._up < len(self._agents):
            while waiting and len(self._pending) < CONNECTS_AT_ONCE:
                self._connect(waiting.pop())
            self._turn(ends_s)
        self._served_a_second = len(self._agents) / (time.monotonic() - began_s)

    def lose_and_return(self) -> dict[str, object]:
        """Wait until every one has lost its connection and has another one; tell when."""
        ends_s = time.monotonic() + self._settings.patience_s
        for agent in self._agents:
            agent.attempts.clear()
            agent.retransmits = 0
        returned = 0
        while returned < len(self._agents):
            self._turn(ends_s)
            returned = self._up if self._up < len(self._agents) else sum(a.connections > 1 for a in self._agents)
        return {
            "up_s": [agent.up_s for agent in self._agents],
            "attempts": [agent.attempts for agent in self._agents],
            "retransmits": sum(agent.retransmits for agent in self._agents),
            "retransmitted": sum(agent.retransmits > 0 for agent in self._agents),
            "served_a_second": self._served_a_second,
            "cpu_s": time.process_time(),
        }

    def _turn(self, ends_s: float) -> None:
        now_s = time.monotonic()
        if now_s > ends_s:
            raise BrokerUnreachable("the fleet did not come back in time", why=f"{self._up} of {len(self._agents)}")
        while self._due and self._due[0][0] <= now_s:
            self._connect(heapq.heappop(self._due)[1])
        wait_s = min(0.05, max(0.0, self._due[0][0] - now_s)) if self._due else 0.05
        for fd in self._lines.ready(wait_s, 512):
            self._serve(fd)
        if now_s - self._looked_s > 1.0:
            self._looked_s = now_s
            self._give_up_late(now_s)

    def _connect(self, number: int) -> None:
        agent = self._agents[number]
        agent.began_s = time.monotonic()
        agent.attempts.append(agent.began_s)
        try:
            agent.line = Line((HOST, self._settings.port), self._context)
        except OSError:
            self._lost(number)
            return
        agent.line.send(packets.connect(agent.name, SessionSettings.keepalive_s * 20, SESSION_EXPIRY_S))
        fd = agent.line.fileno()
        self._by_fd[fd] = agent
        self._pending[number] = None
        self._watch(agent)

    def _serve(self, fd: int) -> None:
        agent = self._by_fd[fd]
        assert agent.line is not None
        try:
            for packet in agent.line.turn():
                if packet.kind == packets.Kind.CONNACK:
                    self._greeted(agent, packet)
            self._watch(agent)
        except OSError:
            self._lost(_number(agent))

    def _greeted(self, agent: Standing, packet: packets.Packet) -> None:
        assert agent.line is not None
        if packet.body[1]:
            raise ConnectionRefusedError(f"code {packet.body[1]:#x}")
        agent.is_up, agent.up_s = True, time.monotonic()
        agent.connections += 1
        agent.retransmits += agent.line.retransmits
        self._up += 1
        self._pending.pop(_number(agent), None)
        birth = Connection(device=agent.name, online=True, boot_id="light", conn_seq=agent.connections)
        agent.line.send(packets.subscribe(1, [_TOPICS.down(agent.name), _TOPICS.trust()], 1))
        agent.line.send(packets.publish(2, _TOPICS.connection(agent.name), birth.encode(), retain=True))

    def _lost(self, number: int) -> None:
        agent, now_s = self._agents[number], time.monotonic()
        if agent.line is not None:
            if not agent.is_up:
                agent.retransmits += agent.line.retransmits
            self._by_fd.pop(agent.line.fileno(), None)
            self._lines.forget(agent.line)
            agent.line.close()
            agent.line = None
        self._up -= agent.is_up
        self._pending.pop(number, None)
        agent.is_up = False
        if now_s - agent.began_s > STEADY_S:  # as the agent's session does
            agent.backoff.reset()
        heapq.heappush(self._due, (now_s + agent.backoff.next_s(), number))

    def _give_up_late(self, now_s: float) -> None:
        for number in list(self._pending):
            agent = self._agents[number]
            assert agent.line is not None
            patience_s = ANSWER_S if agent.line.is_open else CONNECT_TIMEOUT_S
            if now_s - agent.began_s > patience_s:
                self._lost(number)

    def _watch(self, agent: Standing) -> None:
        assert agent.line is not None
        self._lines.watch(agent.line)


def _number(agent: Standing) -> int:
    return int(agent.name.rpartition("-")[2])


def main() -> None:
    """Connect, wait for the word, come back, tell when."""
    fleet = Fleet(Settings(**json.loads(sys.argv[1])))
    fleet.gather()
    answer_once(fleet.lose_and_return)


if __name__ == "__main__":
    main()
