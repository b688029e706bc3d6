"""Lets the tests of this folder import what they share, and the bundles that the unit tests of the data process use."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "unit" / "runtime")]
