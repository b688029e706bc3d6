"""The controller's side of a delivery in a process of its own, so that its processor time is its alone.

``python -m measure.sender chunks|single PORT FOLDER FILE`` connects, says ``ready``, publishes FILE when a line comes,
and answers with one JSON line when the broker has acknowledged everything.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from typing_extensions import override

from dsops.bundle import sha256_hex
from dsops.chunks import index_of, split
from dsops.errors import BrokerUnreachable
from dsops.topics import Topics
from dsops_controller.server.link import Link, LinkSettings, Listener, Message
from dsops_controller.server.tls import Credentials
from measure.broker import HOST, PREFIX, context
from measure.child import READY

SINGLE_TOPIC = f"{PREFIX}/c/whole"
WAIT_S = 30.0
EXPIRY_S = 7 * 86_400
"""As the controller sets it."""


class Silent(Listener):
    """Waits for the session; nothing else is of interest here."""

    def __init__(self) -> None:
        self.up = threading.Event()

    @override
    def connected(self) -> None:
        self.up.set()

    @override
    def disconnected(self) -> None:
        self.up.clear()

    @override
    def message(self, topic: str, payload: bytes) -> None:
        return


def chunks(port: int, keys: Credentials, data: bytes) -> Callable[[], None]:
    """Return a function that publishes index and chunks through the controller's own link."""
    listener = Silent()
    link = Link(
        LinkSettings(HOST, port, keys.ca, keys.certificate, keys.key, "controller", (("$SYS/none", 0),)), listener
    )
    threading.Thread(target=link.run, args=(threading.Event(),), daemon=True).start()
    if not listener.up.wait(WAIT_S):
        raise BrokerUnreachable("the controller got no session")
    topics = Topics(PREFIX)

    def publish() -> None:
        for piece in (index_of(data).encode(), *split(data)):
            link.publish(Message(topics.chunk(sha256_hex(piece)), piece, retain=True, expiry_s=EXPIRY_S))
        if not link.flush(WAIT_S):
            raise BrokerUnreachable("the broker did not take the chunks")

    return publish


def single(port: int, keys: Credentials, data: bytes) -> Callable[[], None]:
    """Return a function that publishes everything in one retained message through plain paho-mqtt."""
    client = Client(CallbackAPIVersion.VERSION2, client_id="controller", protocol=MQTTv5)
    client.tls_set_context(context(keys))
    client.connect(HOST, port)
    client.loop_start()

    def publish() -> None:
        client.publish(SINGLE_TOPIC, data, qos=1, retain=True).wait_for_publish(WAIT_S)

    return publish


def main() -> None:
    """Connect, wait for the word, publish, tell the time it took."""
    way, port, folder, file = sys.argv[1:]
    keys = Path(folder)
    credentials = Credentials(keys / "ca.crt", keys / "controller.crt", keys / "controller.key")
    publish = {"chunks": chunks, "single": single}[way](int(port), credentials, Path(file).read_bytes())
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    publish()
    took = {"took_s": time.monotonic() - began_s, "cpu_s": time.process_time() - began_cpu_s}
    sys.stdout.write(json.dumps(took) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
