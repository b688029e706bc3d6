"""Lets the tests of this folder import the bundles that the unit tests of the data process use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "runtime"))
sys.path.insert(0, str(Path(__file__).parent))
