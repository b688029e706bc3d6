"""A sink that is a topic of a broker near by: each answer at least once while it is there."""

import threading
from functools import partial

from paho.mqtt.client import Client

from dsops.errors import BrokerUnreachable
from dsops_agent.feed.broker import connect, disconnect, make_client
from dsops_agent.feed.counts import Counts
from dsops_agent.feed.ports import Answer
from dsops_agent.feed.settings import TopicSink

_LOOK_S = 0.1


class TopicOutlet:
    """Publishes, one after the other, each until the broker took it.

    Args:
        name: Name of the sink.
        settings: Where to.
        client_id: What the broker knows this sink by.
        counts: Is told why there is no connection.
    """

    def __init__(self, name: str, settings: TopicSink, client_id: str, counts: Counts) -> None:
        self._settings = settings
        self._up = threading.Event()
        self._report = partial(self._tell, name, counts)
        self._client = make_client(settings, client_id, 0, self._connected, self._report)
        connect(self._client, settings)

    def write(self, answer: Answer, stop: threading.Event) -> None:
        """Publish an answer: wait for a connection if need be, then for the broker's word.

        Raises:
            BrokerUnreachable: ``stop`` was set first, or the broker does not take the message.
        """
        while not self._up.wait(_LOOK_S):
            if stop.is_set():
                raise BrokerUnreachable("there is no connection to the broker")
        topic = self._settings.topic.replace("{source}", answer.source).replace("{model}", answer.model)
        try:
            sent = self._client.publish(topic, answer.record, qos=1, retain=self._settings.retain)
            while not sent.is_published():
                if stop.is_set():
                    raise BrokerUnreachable("the broker did not say that it took the message")
                sent.wait_for_publish(_LOOK_S)
        except (ValueError, RuntimeError) as error:  # as paho says that a topic or a payload is none
            raise BrokerUnreachable("the message cannot be sent", why=str(error)) from error

    def close(self) -> None:
        """End the connection."""
        disconnect(self._client)

    def _connected(self, client: Client) -> None:
        self._up.set()

    def _tell(self, name: str, counts: Counts, why: str) -> None:
        if why:
            self._up.clear()
        counts.trouble(f"sink {name}: {why}" if why else "")
