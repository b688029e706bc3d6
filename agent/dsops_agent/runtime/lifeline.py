"""A process that does not outlive the one that started it: one that hangs would run for ever, and hold what it has."""

import ctypes
import logging
import os
import signal
import sys

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have this process killed when its parent ends, however it ends: prctl(2), PR_SET_PDEATHSIG.

    The kernel does it, so it also ends a process that is busy in foreign code. The thread of the parent that started
    this process must live as long as is waited for it.

    Args:
        parent: The process that started this one. If it has ended already, this one ends at once.
    """
    if not sys.platform.startswith("linux") or ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        logger.warning("this host does not end a process with its parent")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
