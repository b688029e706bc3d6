"""A paho-mqtt client that keeps no more of what the broker sends than one packet, whatever the broker does."""

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode
from typing_extensions import override

MAX_PACKET_BYTES = 128 * 1024


class BoundedClient(mqtt.Client):
    """Ends the connection at a packet longer than what CONNECT says that we take, before it is read; and at QoS 2.

    Nobody here asks for messages of QoS 2, each of which paho-mqtt would keep until a second packet releases it.
    """

    @override
    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > MAX_PACKET_BYTES:
            raise ConnectionError(f"the broker sends a packet of {bufsize} bytes, {MAX_PACKET_BYTES} are taken")
        return super()._sock_recv(bufsize)

    @override
    def _handle_publish(self) -> MQTTErrorCode:
        if (self._in_packet["command"] & 0x06) >> 1 > 1:
            raise ConnectionError("the broker sends a message of QoS 2, for which nobody asked")
        return super()._handle_publish()
