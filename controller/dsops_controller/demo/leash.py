"""Becomes a program that ends with the process that started it: a demonstration that is killed can stop nobody.

    python leash.py PARENT PROGRAM [ARGUMENT ...]

On Linux the kernel sends SIGTERM to the program when its parent ends (prctl(2), PR_SET_PDEATHSIG; it outlives
execve(2)), so that an agent still ends its own processes in order. Runs without anything but the standard library.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def command(*program: str) -> list[str]:
    """Return the command that runs a program on the leash of this process; a thread that starts it must live on."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *program]


def main(parent: int, *program: str) -> int:
    """Become the program; return an exit code where that cannot be."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it has ended before the kernel knew
        return 1
    try:
        os.execvp(program[0], program)  # noqa: S606  # the demonstration's own list of words
    except OSError as error:
        sys.stderr.write(f"{program[0]} cannot be run: {error.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
