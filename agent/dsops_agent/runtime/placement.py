"""Where and how urgently the data process runs, and the proof of what it shall run: processors and niceness."""

import logging
import os
from collections.abc import Sequence

logger = logging.getLogger(__name__)


def usable_cpus(cpus: Sequence[int]) -> int:
    """Return how many processors this process has once it is bound to these; none: as it is."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS has no such call
        return os.cpu_count() or 1
    return len(allowed.intersection(cpus) or allowed)


def place(cpus: Sequence[int], nice: int) -> str:
    """Bind this process, and all threads that it starts from now on, to processors, and let others go first.

    A device that lost a processor must answer all the same: what the host does not allow is left as it is.

    Args:
        cpus: Numbers of processors; none: as it is.
        nice: How far other processes go before this one; 0: as it is.

    Returns:
        Why something was left as it is; empty when all was done.
    """
    problems = []
    if cpus:
        try:
            os.sched_setaffinity(0, cpus)
        except (OSError, AttributeError) as error:  # macOS has no such call
            problems.append(f"it cannot be bound to processors {', '.join(map(str, cpus))}: {error}")
    if nice:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
        except OSError as error:
            problems.append(f"its niceness cannot be {nice}: {error}")
    for problem in problems:
        logger.warning("the inference process runs where it is: %s", problem)
    return "; ".join(problems)
