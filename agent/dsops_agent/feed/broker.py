"""A connection to a broker near by, which comes back by itself."""

import ssl
import threading
from collections.abc import Callable

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from dsops.bounded_mqtt import BoundedClient
from dsops.errors import InvalidConfig
from dsops_agent.feed.settings import Broker

KEEPALIVE_S = 30
HEAD_BYTES = 2048
"""What a message has besides its payload, at most: topic and properties."""
_LEAST_WAIT_S, _MOST_WAIT_S = 1, 30
_properties: Callable[[int], Properties] = Properties


def make_client(
    settings: Broker,
    client_id: str,
    most_bytes: int,
    connected: Callable[[Client], None],
    trouble: Callable[[str], None],
) -> Client:
    """Return a client that is not connected yet; :func:`connect` begins.

    Args:
        settings: Which broker.
        client_id: What it is known by.
        most_bytes: Longest payload that is taken.
        connected: Called on each connection, on the client's thread.
        trouble: Told why there is no connection; an empty text when there is one.

    Raises:
        InvalidConfig: The files that it names cannot be used.
    """
    client = BoundedClient(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5)
    client.most_bytes = most_bytes + HEAD_BYTES
    client.suppress_exceptions = True
    client.reconnect_delay_set(_LEAST_WAIT_S, _MOST_WAIT_S)
    try:
        if settings.ca is not None:
            client.tls_set_context(_tls(settings))
        if settings.user:
            password = settings.password.read_text().rstrip("\r\n") if settings.password else None
            client.username_pw_set(settings.user, password)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"cannot use what is set for broker {settings.broker}", why=str(error)) from error

    is_up = threading.Event()

    def on_connect(_: Client, __: object, ___: ConnectFlags, reason: ReasonCode, ____: object) -> None:
        trouble(f"broker {settings.broker} refused the connection: {reason}" if reason.is_failure else "")
        if not reason.is_failure:
            is_up.set()
            connected(client)

    def on_disconnect(_: Client, __: object, ___: DisconnectFlags, reason: ReasonCode, ____: object) -> None:
        if is_up.is_set():  # else it was refused, and said so
            is_up.clear()
            trouble(f"the connection to broker {settings.broker} is lost: {reason}")

    def on_connect_fail(_: Client, __: object) -> None:
        trouble(f"broker {settings.broker} cannot be reached")

    client.on_connect = on_connect
    client.on_disconnect = on_disconnect
    client.on_connect_fail = on_connect_fail
    return client


def connect(client: BoundedClient | Client, settings: Broker) -> None:
    """Begin to connect, and go on for as long as it takes, on a thread of the client."""
    host, _, port = settings.broker.rpartition(":")
    properties = _properties(PacketTypes.CONNECT)
    if isinstance(client, BoundedClient):
        properties.MaximumPacketSize = client.most_bytes
    client.connect_async(host.strip("[]"), int(port), KEEPALIVE_S, clean_start=True, properties=properties)
    client.loop_start()


def disconnect(client: Client) -> None:
    """End the connection and the thread."""
    client.disconnect()
    client.loop_stop()


def _tls(settings: Broker) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(settings.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    return context
