"""The build time, a device's last resort against a clock that is wrong, keeps up with the releases."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dsops

ROOT = Path(__file__).parents[2]


def test_build_time_is_not_before_the_newest_release_and_not_in_the_future() -> None:
    built = datetime.fromisoformat(dsops.BUILD_TIME)
    releases = re.findall(r"^## \[[^]]+\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    newest = max((datetime.fromisoformat(day).replace(tzinfo=UTC) for day in releases), default=built)
    assert newest <= built <= datetime.now(UTC) + timedelta(days=1)
