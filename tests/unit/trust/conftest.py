from datetime import UTC, datetime
from pathlib import Path

import pytest

from dsops.clock import ManualClock
from dsops_controller.trust.testing import FoundedFleet, MakeBundle, bundle_maker


@pytest.fixture
def fleet(tmp_path: Path) -> FoundedFleet:
    return FoundedFleet.create(tmp_path, ManualClock(datetime(2026, 6, 1, 12, tzinfo=UTC)))


@pytest.fixture
def bundle(tmp_path: Path) -> MakeBundle:
    return bundle_maker(tmp_path)
