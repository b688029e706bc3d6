"""The last records of a process, which are handed over while those before may still be on their way."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from test_forgotten_watches import make_watch, yes

from dsops.clock import SystemClock
from dsops_agent.runtime.channel import Channel, Header
from dsops_agent.runtime.records import Kind
from dsops_agent.runtime.report import Reporter

PATIENCE_S = 60.0


class Receiver:
    """A control process that takes its time over the first batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.asked, self.goes_on = threading.Event(), threading.Event()

    def handle(self, op: str, header: Header, body: bytes) -> tuple[Header, bytes]:
        self.batches.append(header["batch"])
        if len(self.batches) == 1:
            self.asked.set()
            self.goes_on.wait(PATIENCE_S)
        return {}, b""

    @contextmanager
    def channel(self) -> Iterator[Channel]:
        """The other process's end."""
        ours, theirs = socket.socketpair()
        ends = Channel(ours, self.handle), Channel(theirs, self.handle)
        for end in ends:
            end.start()
        try:
            yield ends[1]
        finally:
            for end in ends:
                end.close()


def test_who_sends_the_last_records_waits_for_whoever_sends_those_before() -> None:
    receiver = Receiver()
    with receiver.channel() as channel, ThreadPoolExecutor() as pool:
        reporter = Reporter(make_watch, lambda: channel, lambda settle_s: None, lambda: yes, 10.0, SystemClock())
        reporter.put(Kind.TELEMETRY, b"", False)
        before = pool.submit(reporter.send, PATIENCE_S)
        assert receiver.asked.wait(PATIENCE_S)
        reporter.put(Kind.TELEMETRY, b"", False)
        assert not reporter.send(0.01)
        receiver.goes_on.set()
        assert before.result(PATIENCE_S)
        reporter.finish()
    assert receiver.batches == [1, 2]
    assert reporter.buffer.waiting == 0
