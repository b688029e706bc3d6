"""Ends a device's session by taking it over, on any MQTT 5 broker that takes the client id from the certificate's name.

A broker that meets a client id again must close the older connection (MQTT 5.0, section 3.1.4, [MQTT-3.1.4-3]; reason
0x8E, session taken over). So the controller connects under the device's name, with a certificate of some minutes that
names no device to gRPC, asks for a clean start and keeps no session; then it leaves.
"""

import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from dsops.errors import BrokerUnreachable
from dsops_controller.fleet.ca import Issued

LIFE = timedelta(minutes=10)
TIMEOUT_S = 5.0
_LOOK_S = 0.05

IssueEvictor = Callable[[str, timedelta], Issued]
"""Returns a client's certificate under a device's name that names no device to gRPC."""


@dataclass(frozen=True)
class Evictor:
    """Takes sessions over.

    Attributes:
        host: The broker's address.
        port: Its port.
        ca: File of the authority that the broker's certificate comes from.
        issue: Makes the certificate for one eviction; its key lives for that long.
    """

    host: str
    port: int
    ca: Path
    issue: IssueEvictor

    def evict(self, device: str) -> None:
        """Close the device's connection, if it has one, and forget its session.

        Raises:
            BrokerUnreachable: The broker does not answer, or lets nobody in.
        """
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=device,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        answers: list[ReasonCode] = []
        client.on_connect = lambda _client, _data, _flags, reason, _properties: answers.append(reason)
        client.connect_timeout = TIMEOUT_S
        client.tls_set_context(self._context(device))
        try:
            client.connect(self.host, self.port, keepalive=10, clean_start=True)
            _await(client, lambda: bool(answers))
            client.disconnect()
            _await(client, lambda: not client.want_write())
        except (OSError, ValueError) as error:
            raise BrokerUnreachable(f"the session of {device} cannot be ended", why=str(error)) from error
        if not answers or answers[0].is_failure:
            why = str(answers[0]) if answers else f"no answer in {TIMEOUT_S:.0f} s"
            raise BrokerUnreachable(f"the session of {device} cannot be ended", why=why)

    def _context(self, device: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        issued = self.issue(device, LIFE)
        with tempfile.TemporaryDirectory(prefix="dsops-") as folder:  # OpenSSL reads keys only from files
            issued.save(Path(folder), "evictor")
            context.load_cert_chain(Path(folder) / "evictor.crt", Path(folder) / "evictor.key")
        return context


def _await(client: mqtt.Client, is_done: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + TIMEOUT_S
    while not is_done() and time.monotonic() < ends_s:
        if client.loop(_LOOK_S) != mqtt.MQTT_ERR_SUCCESS:
            return
