"""The demonstration's thief: what somebody does who has stolen the controller's certificate, or all its online keys.

Nothing is pretended: the messages go through the real broker, signed with the real stolen keys where it says so.
"""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric import ed25519
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from dsops.directive import DesiredSlot, Directive
from dsops.dsse import PrivateKey
from dsops.errors import BrokerUnreachable
from dsops.topics import Topics
from dsops_controller.server.mosquitto import CONTROLLER
from dsops_controller.server.tls import controller_credentials
from dsops_controller.trust.keys import OnlineKeys

_WAIT_S = 10.0


class Thief:
    """Writes directives to devices with what was stolen from a server's folder.

    Args:
        server: The server's state folder.
        fleet: Name of the fleet.
        host: Where the broker is.
        port: Its port.
    """

    def __init__(self, server: Path, fleet: str, host: str, port: int) -> None:
        self._server = server
        self._fleet = fleet
        self._host = host
        self._port = port

    def forge(self, device: str, seq: int, slot: tuple[str, DesiredSlot]) -> None:
        """Publish a directive that is signed by a key of the thief's own, as a hostile broker could."""
        self._publish(device, self._directive(device, seq, slot), ed25519.Ed25519PrivateKey.generate())

    def misuse_online_keys(self, device: str, seq: int, slot: tuple[str, DesiredSlot]) -> None:
        """Publish a directive that is signed by the controller's own, stolen, director key."""
        stolen = OnlineKeys.load(self._server / "keys").all("director")[0]
        self._publish(device, self._directive(device, seq, slot), stolen)

    def _directive(self, device: str, seq: int, slot: tuple[str, DesiredSlot]) -> Directive:
        now = datetime.now(UTC)
        model, wanted = slot
        return Directive(
            fleet=self._fleet,
            device=device,
            seq=seq,
            issued=now,
            expires=now + timedelta(days=1),
            slots={model: wanted},
        )

    def _publish(self, device: str, directive: Directive, key: PrivateKey) -> None:
        """Publish as the controller, whose session the broker ends for it.

        Raises:
            BrokerUnreachable: The broker did not take the message.
        """
        client = self._client()
        is_up = threading.Event()
        client.on_connect = lambda *_: is_up.set()
        client.connect(self._host, self._port)
        client.loop_start()
        try:
            if not is_up.wait(_WAIT_S):
                raise BrokerUnreachable("the thief was not let in")
            message = client.publish(Topics().desired(device), directive.sign(key), qos=1, retain=True)
            message.wait_for_publish(_WAIT_S)
            client.disconnect()
        finally:
            client.loop_stop()

    def _client(self) -> mqtt.Client:
        files = controller_credentials(self._server)
        context = ssl.create_default_context(cafile=str(files.ca))
        context.load_cert_chain(files.certificate, files.key)
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=CONTROLLER, protocol=MQTTProtocolVersion.MQTTv5)
        client.tls_set_context(context)
        return client
