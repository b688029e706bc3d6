"""A standard output that is this program's own: libraries of others, a delegate's above all, print to it too."""

import os
import sys
from typing import TextIO


def own_output() -> TextIO:
    """Return the standard output; whatever else prints, in this process, does so to standard error from now on."""
    mine = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return mine
