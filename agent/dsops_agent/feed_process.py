"""The feeding process as a process: started, started again when it ends, and ended with the agent.

It is a process of its own because what it reads is hostile (pictures, messages) or fragile (drivers of cameras): its
end costs no request of the inference process, of which it is an ordinary client.
"""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

from dsops.clock import Clock
from dsops_agent.config import Config
from dsops_agent.feed.counts import FeedStatus, read_status
from dsops_agent.runtime_process import describe_exit, runtime_environment

logger = logging.getLogger(__name__)

FIRST_WAIT_S, MOST_WAIT_S = 0.5, 30.0
STEADY_S = 60.0
"""A process that lived so long is started again without delay."""
TERMINATE_S = 5.0
_LOOK_S = 0.2
_MODULE = "dsops_agent.feed"


def feed_folder(config: Config) -> Path:
    """Return the feeding process's own folder."""
    return config.state / "feed"


def feed_settings(config: Config) -> str:
    """Return its settings, as ``python -m dsops_agent.feed --settings`` takes them."""
    settings = {
        "device": config.device,
        "socket": str(config.inference_socket),
        "state": str(feed_folder(config)),
        "sources": [source.model_dump(mode="json", exclude_none=True) for source in config.source],
        "sinks": [sink.model_dump(mode="json", exclude_none=True) for sink in config.sink],
    }
    return json.dumps(settings)


class FeedSupervisor:
    """Keeps the feeding process running; :meth:`run` is the body of a thread.

    Args:
        config: The configuration; it has sources.
        clock: Time.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self._settings = feed_settings(config)
        self._folder = feed_folder(config)
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self._restarts = 0

    def status(self) -> FeedStatus:
        """Return what the process says of itself; nothing of one that is not there any more."""
        child = self._child
        status = read_status(self._folder / "status.json")
        is_of_now = child is not None and child.poll() is None and child.pid == status.pid
        return (status if is_of_now else FeedStatus()).model_copy(update={"restarts": self._restarts})

    def run(self, stop: threading.Event) -> None:
        """Keep a process running until ``stop`` is set, then end it."""
        wait_s = FIRST_WAIT_S
        while not stop.is_set():
            began_s = self._clock.monotonic_s()
            self._child = child = self._spawn()
            while child.poll() is None and not stop.wait(_LOOK_S):
                continue
            if stop.is_set():
                break
            logger.warning("the feeding process has ended and is started again: %s", describe_exit(child.returncode))
            self._restarts += 1
            if self._clock.monotonic_s() - began_s > STEADY_S:
                wait_s = FIRST_WAIT_S
            stop.wait(wait_s)
            wait_s = min(MOST_WAIT_S, 2 * wait_s)
        if self._child is not None:
            _end(self._child)

    def _spawn(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", _MODULE, "--settings", self._settings],
            stdin=subprocess.PIPE,  # it ends when this end is gone, however that happens
            stdout=subprocess.DEVNULL,
            env=runtime_environment(),
        )
        logger.info("started feeding process %d", child.pid)
        return child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(TERMINATE_S)
    except subprocess.TimeoutExpired:
        logger.warning("feeding process %d does not end and is killed", child.pid)
        child.kill()
        child.wait()
