"""Devices that join, many to a process: with the agent's own code, or what nobody can do without.

``python -m measure.joining agents|bare FOLDER`` says ``ready``, reads one JSON line (see :class:`Task`), lets every
device join, and answers with one JSON line: for each device the seconds from its key to the acknowledged birth.
"""

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from typing_extensions import override

from dsops.clock import SystemClock
from dsops.errors import BrokerUnreachable
from dsops.messages import Connection, Inventory
from dsops.topics import Topics
from dsops_agent.config import Enrolment
from dsops_agent.enrol import Applicant, GrpcEnroller
from dsops_agent.identity import Identity, IdentityFolder
from dsops_agent.transport.client import tls_context
from dsops_agent.transport.mqtt import Life, MqttSession, Settings
from dsops_agent.transport.ports import Inbox
from measure.child import READY
from measure.handshakes import Bare

AT_ONCE = 8
"""Devices of one process that join at the same time."""
WAIT_S = 60.0
_FACTS = Inventory(agent_version="0", hardware="benchmark", cpus=1, memory_bytes=1)


@dataclass(frozen=True)
class Task:
    """What a process has to do: ``tokens`` by device; ``address`` of the enrolment service, ``ca`` of the server."""

    address: str
    ca: str
    tokens: Mapping[str, str]

    def encode(self) -> str:
        """Return the line."""
        return json.dumps(asdict(self))


class _Silent(Inbox):
    """Nothing is sent to these devices."""

    @override
    def message(self, topic: str, payload: bytes) -> None:
        return

    @override
    def connected(self) -> None:
        return

    @override
    def disconnected(self) -> None:
        return


def join(folder: Path, task: Task, device: str) -> float:
    """Let one device join as the agent does; return how long it took in seconds.

    Raises:
        DsopsError: It may not join, or the broker did not take its birth.
    """
    began_s = time.monotonic()
    config = Enrolment.model_validate({"address": task.address, "ca": task.ca})
    facts = {key: str(value) for key, value in _FACTS.model_dump().items()}
    identities = IdentityFolder(folder / device)
    applicant = Applicant(device, config, identities, facts, GrpcEnroller(config), SystemClock())
    identity = applicant.enrol(task.tokens[device])
    _be_born(identity)
    return time.monotonic() - began_s


def _be_born(identity: Identity) -> None:
    """Connect for the first time and wait until the broker has taken the birth; then leave in order."""
    topics = Topics(identity.fleet.topic_prefix)
    accepted = threading.Event()
    settings = Settings(
        identity.device,
        identity.fleet.broker,
        partial(tls_context, identity),
        reconnect_max_s=0.05,
        accepted=accepted.set,
    )
    life = Life(topics.connection(identity.device), partial(next, itertools.count(1)), partial(_life, identity.device))
    session = MqttSession(settings, life, _Silent(), SystemClock())
    threads = [threading.Thread(target=session.run)]
    for thread in threads:
        thread.start()
    try:
        ends_s = time.monotonic() + WAIT_S
        while not session.figures.published and time.monotonic() < ends_s:
            time.sleep(0.002)
        if not session.figures.published or session.figures.refused:
            raise BrokerUnreachable("a birth was not taken", why=session.problem or "no acknowledgement")
    finally:
        session.stop()
        for thread in threads:
            thread.join()


def _life(device: str, seq: int, online: bool) -> bytes:
    facts = _FACTS if online else Inventory()
    return Connection(device=device, online=online, boot_id="benchmark", conn_seq=seq, inventory=facts).encode()


def timed(act: Callable[[], object]) -> float:
    """Return how long a call took in seconds."""
    began_s = time.monotonic()
    act()
    return time.monotonic() - began_s


def main() -> None:
    """Run as the module's text says."""
    way, folder = sys.argv[1], Path(sys.argv[2])
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    task = Task(**json.loads(sys.stdin.readline()))
    devices = list(task.tokens)
    if way == "agents":
        with ThreadPoolExecutor(AT_ONCE) as pool:
            took_s = list(pool.map(partial(join, folder, task), devices))
    else:
        bare = Bare.create(folder)
        took_s = [timed(partial(bare.join, device)) for device in devices]
    sys.stdout.write(json.dumps(took_s) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
