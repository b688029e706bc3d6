"""Lets the tests of this folder import the bundles and the starter of the data process that others have."""

import sys
from pathlib import Path

for folder in ("unit/runtime", "integration/runtime", "integration/feed"):
    sys.path.insert(0, str(Path(__file__).parents[2] / folder))
