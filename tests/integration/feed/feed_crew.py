"""The feeding process as the agent starts it, a broker, and what arrives."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from dsops_agent.feed.counts import FeedStatus, SinkCounts, SourceCounts, read_status
from dsops_agent.runtime_process import runtime_environment
from dsops_controller.demo.ports import free_ports

MOSQUITTO = os.environ.get("DSOPS_MOSQUITTO") or shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def eventually(condition: Callable[[], object]) -> None:
    ends_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends_s, "waited in vain"
        time.sleep(0.02)


class Feed:
    """A feeding process."""

    def __init__(
        self, run_folder: Path, state: Path, sources: list[dict[str, Any]], sinks: list[dict[str, Any]]
    ) -> None:
        settings = {
            "device": "cam-1",
            "socket": str(run_folder / "inference.sock"),
            "state": str(state),
            "sources": sources,
            "sinks": sinks,
        }
        self.state = state
        self.log = run_folder / f"feed-{secrets.token_hex(4)}.log"
        self._command = [sys.executable, "-m", "dsops_agent.feed", "--settings", json.dumps(settings)]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stderr=log, env=runtime_environment())

    @property
    def status(self) -> FeedStatus:
        status = read_status(self.state / "status.json")
        return status if status.pid == self.process.pid else FeedStatus()

    def source(self, name: str) -> SourceCounts:
        return self.status.sources.get(name, SourceCounts())

    def sink(self, name: str) -> SinkCounts:
        return self.status.sinks.get(name, SinkCounts())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            assert self.process.wait(60) == 0


@contextmanager
def feeding(*args: Any) -> Iterator[Feed]:
    feed = Feed(*args)
    try:
        yield feed
        feed.end()
    finally:
        if feed.process.poll() is None:
            feed.kill()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def put(folder: Path, name: str, values: Any) -> None:
    temporary = folder / f".{name}"
    with temporary.open("wb") as file:
        np.save(file, values)
    temporary.rename(folder / name)


class Broker:
    """mosquitto, which can be killed and started again on the same port."""

    def __init__(self, folder: Path, *more: str) -> None:
        [self.port] = free_ports(1)
        self._conf = folder / "mosquitto.conf"
        text = [f"listener {self.port} 127.0.0.1", "set_tcp_nodelay true", *(more or ("allow_anonymous true",))]
        self._conf.write_text("\n".join(text) + "\n")
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen([MOSQUITTO, "-c", str(self._conf)], stderr=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Listener:
    """A program that hears a topic, and says things on others."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._is_ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.on_message = self._message
        self.client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self.client.on_subscribe = lambda *_: self._is_ready.set()
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert self._is_ready.wait(60)

    def _message(self, _: Client, __: object, message: MQTTMessage) -> None:
        self.heard.append((message.topic, json.loads(message.payload)))

    def say(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1).wait_for_publish(60)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
