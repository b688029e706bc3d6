"""An MQTT client, for both sides, that keeps no more than one packet of what a broker sends, whatever that does."""

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode
from typing_extensions import override

MAX_PACKET_BYTES = 128 * 1024


class BoundedClient(Client):
    """Ends the connection at a packet that is too long, before it is read, and at a message of QoS 2.

    Nobody here asks for messages of QoS 2; paho-mqtt would keep each of them until a second packet releases it.
    """

    most_bytes = MAX_PACKET_BYTES
    """What a packet has at most; CONNECT is to say the same (MQTT 5, section 3.1.2.11.4)."""

    @override
    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self.most_bytes:
            raise ConnectionError(f"the broker sends a packet of {bufsize} bytes, {self.most_bytes} are taken")
        return super()._sock_recv(bufsize)

    @override
    def _handle_publish(self) -> MQTTErrorCode:
        if (self._in_packet["command"] & 0x06) >> 1 > 1:
            raise ConnectionError("the broker sends a message of QoS 2, for which nobody asked")
        return super()._handle_publish()
