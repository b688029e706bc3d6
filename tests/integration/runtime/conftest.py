"""Lets the tests of this folder import what they share, and the bundles that the unit tests of the data process use."""

import sys
from pathlib import Path

_UNIT = Path(__file__).parents[2] / "unit"
sys.path[:0] = [str(Path(__file__).parent), str(_UNIT / "runtime"), str(_UNIT / "core")]
