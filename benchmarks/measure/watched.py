"""The lines of a fleet of light agents, watched for what each of them waits for."""

import select

from measure.line import Line


class Watched:
    """Watches lines for input, and for room to write while they have something to write."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._events: dict[int, int] = {}

    def watch(self, line: Line) -> None:
        """Send what can be sent, and watch for what the line waits for now."""
        line.flush()
        fd = line.fileno()
        events = select.EPOLLIN | (select.EPOLLOUT if line.wants_write else 0)
        if fd not in self._events:
            self._epoll.register(fd, events)
        elif self._events[fd] != events:
            self._epoll.modify(fd, events)
        self._events[fd] = events

    def forget(self, line: Line) -> None:
        """Take note that a line is about to be closed: its number may be another's soon."""
        self._events.pop(line.fileno(), None)

    def ready(self, wait_s: float, most: int = -1) -> list[int]:
        """Return the numbers of lines that are ready."""
        return [fd for fd, _ in self._epoll.poll(wait_s, most)]
