"""What happens when the broker of 10,000 agents is killed and started again: how soon all are back, and is it a storm?

Light agents in one process come back with the agent's own back-off, jitter and constants; in the same run the same
fleet comes back without jitter. The controller's own link takes every birth. The broker is killed with SIGKILL, loses
what it had not saved, and listens again a few seconds later. ``--quick`` takes 1,000 agents.
"""

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from measure.broker import RunningBroker, broker, cpu_s, running
from measure.child import child
from measure.fetches import answer, say
from measure.place import Place
from measure.report import Limit, Report, Row, run
from measure.standing import RECONNECT_MAX_S, Settings

from dsops_agent.transport.mqtt import Settings as SessionSettings

AGENTS, QUICK_AGENTS = 10_000, 1_000
AWAY_S = 5.0
"""How long the broker is gone."""
AGAINST = "no jitter"
LATEST_S = float(SessionSettings.keepalive_s)
"""No storm: who comes to the broker, and is turned away or waits, is served within one keep-alive period."""
MORE_TRIES = 1
"""After the broker is back, a client may fail once more, and wait one period more, than it had planned."""


@dataclass(frozen=True)
class Comeback:
    """How a fleet came back. Times are in seconds after the broker listened again."""

    up_s: list[float]
    latest_s: float
    """The longest time from the first try after the broker listened again until the connection."""
    served_a_second: float
    """Connections that the same broker made in a second for the same fleet, each agent coming when another was done."""
    peak_up: int
    peak_tries: int
    most_tries: int
    late: int
    retransmits: int
    refused: int
    broker_cpu_s: float
    controller_cpu_s: float
    agents_cpu_s: float

    def share_s(self, share: float) -> float:
        """Return when so large a share of the fleet was back."""
        return self.up_s[min(len(self.up_s) - 1, int(share * len(self.up_s)))]


def come_back(place: Place, agents: int, *, tls: bool, jitter: bool) -> Comeback:
    """Kill the broker of a fleet that stands by, start it again, and wait until all are back."""
    folder = place.folder / f"fleet-{'tls' if tls else 'plain'}-{jitter}"
    with ExitStack() as made:
        before = made.enter_context(broker(folder, place.keys, light=True))
        listener = made.enter_context(child("measure.listener", str(before.port), str(place.keys.folder)))
        port = before.port if tls else before.plain_port
        settings = Settings(agents, port, str(place.keys.folder) if tls else "", jitter)
        fleet = made.enter_context(child("measure.standing", settings.encode()))
        time.sleep(2)  # until the births are taken
        say(fleet)
        controller_s, agents_s = cpu_s(listener.pid), cpu_s(fleet.pid)
        os.kill(before.pid, signal.SIGKILL)
        time.sleep(AWAY_S)
        after: RunningBroker = made.enter_context(running(folder / "mosquitto.conf", before.port, folder / "log"))
        back_s = time.monotonic()
        told = answer(fleet, "the fleet")
        controller_s, agents_s = cpu_s(listener.pid) - controller_s, cpu_s(fleet.pid) - agents_s
        return _comeback(told, back_s, (cpu_s(after.pid), controller_s, agents_s))


def _comeback(told: dict[str, Any], back_s: float, used_s: tuple[float, float, float]) -> Comeback:
    up_s = sorted(at - back_s for at in told["up_s"])
    first = [min((at for at in attempts if at >= back_s), default=back_s) for attempts in told["attempts"]]
    tries = [[at - back_s for at in attempts if at >= back_s] for attempts in told["attempts"]]
    return Comeback(
        up_s=up_s,
        latest_s=max(up - came for up, came in zip(told["up_s"], first, strict=True)),
        served_a_second=told["served_a_second"],
        peak_up=_peak(up_s),
        peak_tries=_peak([at for attempts in tries for at in attempts]),
        most_tries=max(map(len, tries)),
        late=sum(len(attempts) > 1 + MORE_TRIES for attempts in tries),
        retransmits=told["retransmits"],
        refused=sum(len(attempts) for attempts in told["attempts"]) - sum(map(len, tries)),
        broker_cpu_s=used_s[0],
        controller_cpu_s=used_s[1],
        agents_cpu_s=used_s[2],
    )


def _peak(times_s: list[float]) -> int:
    """Return the most in any second, counted from each tenth of a second on."""
    tenths = Counter(int(at * 10) for at in times_s)
    return max(sum(tenths[first + more] for more in range(10)) for first in range(min(tenths), max(tenths) + 1))


def rows(place: Place, agents: int, *, tls: bool) -> list[Row]:
    """Measure a fleet with jitter and without."""
    ours = come_back(place, agents, tls=tls, jitter=True)
    peer = come_back(place, agents, tls=tls, jitter=False)
    name = f"{agents:,}, {'TLS' if tls else 'plain'}"
    served = Limit("figure", "<=", max(ours.served_a_second, peer.served_a_second))
    in_time = Limit("figure", "<=", LATEST_S)
    none = Limit("figure", "<=", 0)

    def row(what: str, unit: str, of: str, limit: Limit | None = None) -> Row:
        return Row(f"{name}: {what}", unit, getattr(ours, of), getattr(peer, of), AGAINST, limit)

    shares = [
        Row(f"{name}: {share:.0%} are back after", "s", ours.share_s(share), peer.share_s(share), AGAINST)
        for share in (0.5, 0.99, 1.0)
    ]
    return [
        *shares,
        row("connections a second that the broker can make, one coming after another", "", "served_a_second"),
        row("most tries in a second, against what it can make", "", "peak_tries", served),
        row("most connected in a second", "", "peak_up"),
        row("longest from first try to connection, against a keep-alive", "s", "latest_s", in_time),
        row("most tries of one agent, broker back", "", "most_tries"),
        row("agents that wait more than a period more", "", "late", none),
        row("segments sent again while connecting", "", "retransmits"),
        row("tries while the broker was away", "", "refused"),
        row("broker, processor", "s", "broker_cpu_s"),
        row("controller's link, processor", "s", "controller_cpu_s"),
        row("all agents, processor", "s", "agents_cpu_s"),
    ]


def measure(*, quick: bool) -> Report:
    """Make keys, and measure."""
    agents = QUICK_AGENTS if quick else AGENTS
    with tempfile.TemporaryDirectory(prefix="ds") as name:
        place = Place.create(Path(name), 0)
        found = [row for tls in (False, True) for row in rows(place, agents, tls=tls)]
    facts = {"agents": agents, "broker away": f"{AWAY_S:g} s", "longest wait": f"{RECONNECT_MAX_S:g} s"}
    return Report("fleet", "The broker is killed and comes back", facts, tuple(found))


if __name__ == "__main__":
    sys.exit(run(partial(measure, quick="--quick" in sys.argv[1:])))
