"""The agent, of which a thread can be made to hang: ``hanging_agent.py agent.toml``.

Once the file ``hangs`` lies beside the configuration, an hour passes at once, and the thread that it names never comes
back. A number after the name says of which process: the one that is started next is sound.
"""

import os
import sys
import threading
import time
from pathlib import Path

from typing_extensions import override

from dsops.clock import SystemClock
from dsops_agent.app import Agent
from dsops_agent.config import load


class Hanging(SystemClock):
    """The clock at which every loop looks."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    @override
    def monotonic_s(self) -> float:
        try:
            name, _, pid = self._flag.read_text().partition(" ")
        except FileNotFoundError:
            return super().monotonic_s()
        if pid and int(pid) != os.getpid():
            return super().monotonic_s()
        if threading.current_thread().name == name:
            time.sleep(3600)
        return super().monotonic_s() + 3600


if __name__ == "__main__":
    configuration = Path(sys.argv[1])
    agent = Agent(load(configuration).config, Hanging(configuration.with_name("hangs")))
    agent.stop_on_signals()
    agent.run()
