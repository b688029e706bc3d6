"""A source that is a topic of a broker near by."""

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.subscribeoptions import SubscribeOptions

from dsops.errors import DsopsError, InvalidInput
from dsops_agent.feed.broker import connect, disconnect, make_client
from dsops_agent.feed.decode import from_json, from_raw
from dsops_agent.feed.fit import Form, Frames
from dsops_agent.feed.frames import frames_of, new_windows, sample_shape
from dsops_agent.feed.pace import Pace
from dsops_agent.feed.ports import Line
from dsops_agent.feed.settings import Messages, Source
from dsops_agent.runtime.litert import Array

_RETAINED_NEVER = 2
"""Retain Handling: a message that the broker kept is no new frame (MQTT 5.0, 3.8.3.1)."""


class TopicSource:
    """Takes messages; the newest ones win.

    Args:
        source: The source's settings.
        settings: Which topic.
        client_id: What the broker knows this source by.
    """

    def __init__(self, source: Source, settings: Messages, client_id: str) -> None:
        self._source = source
        self._settings = settings
        self._client_id = client_id
        self._pace = Pace(source.rate_hz)
        self._windows = new_windows(source)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[datetime, bytes]] = deque()
        self._has_gap = False
        self._number = 0

    def run(self, line: Line, stop: threading.Event) -> None:
        """Hand messages over until ``stop`` is set.

        Raises:
            InvalidConfig: The files for TLS cannot be used.
        """

        def on_message(_: Client, __: object, message: MQTTMessage) -> None:
            self._came(line, bytes(message.payload))

        client = make_client(
            self._settings, self._client_id, self._settings.max_bytes, self._subscribe, self._teller(line)
        )
        client.on_message = on_message
        connect(client, self._settings)
        try:
            while not stop.is_set():
                taken = self._next()
                if taken is not None:
                    self._hand_over(line, *taken, stop)
        finally:
            disconnect(client)

    def _teller(self, line: Line) -> Callable[[str], None]:
        def tell(why: str) -> None:
            if why:
                self._gap()
                line.trouble(why)
            else:
                line.in_order()

        return tell

    def _subscribe(self, client: Client) -> None:
        client.subscribe(self._settings.topic, options=SubscribeOptions(qos=0, retainHandling=_RETAINED_NEVER))

    def _gap(self) -> None:
        with self._changed:
            self._has_gap = True

    def _came(self, line: Line, payload: bytes) -> None:
        is_full = False
        with self._changed:
            if len(self._waiting) >= self._settings.queue:
                self._waiting.popleft()
                is_full = self._has_gap = True
            self._waiting.append((datetime.now(UTC), payload))
            self._changed.notify()
        if is_full:
            line.came()
            line.dropped()

    def _next(self) -> tuple[datetime, bytes] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting, 0.2)
            if self._has_gap and self._windows is not None:
                self._windows.restart()
            self._has_gap = False
            return self._waiting.popleft() if self._waiting else None

    def _hand_over(self, line: Line, time_came: datetime, payload: bytes, stop: threading.Event) -> None:
        form = line.form(stop)
        if form is None:
            return
        self._number += 1
        try:
            is_typed = self._settings.format == "raw"
            values = self._decode(payload, form)
            frames = frames_of(values, form, self._source, self._windows, is_typed=is_typed)
        except InvalidInput as error:
            line.came()
            line.failed(f"{error}: {error.why}" if error.why else str(error))
            if self._windows is not None:
                self._windows.restart()
            return
        line.came(len(frames))
        kept = self._kept(frames)
        line.dropped(len(frames) - len(kept))
        if len(kept):
            self._ask(line, time_came, kept)

    def _kept(self, frames: Frames) -> Frames:
        return frames[np.array([self._pace.passes(time.monotonic()) for _ in range(len(frames))], dtype=bool)]

    def _ask(self, line: Line, time_came: datetime, frames: Frames) -> None:
        try:
            answers = line.answers(f"{time_came:%Y%m%dT%H%M%S.%f}-{self._number}", time_came, frames)
        except DsopsError as error:
            line.failed(f"{error}: {error.why}" if error.why else str(error), len(frames))
        else:
            line.in_order()
            line.give(answers)

    def _decode(self, payload: bytes, form: Form) -> Array:
        if self._settings.format == "json":
            return from_json(payload)
        return from_raw(payload, self._source.dtype, sample_shape(self._source, form))
