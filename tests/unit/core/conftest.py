"""Lets the tests of this folder import what they share, and what the tests of the build and the runtime make."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "build"), str(HERE.parent / "runtime")]
