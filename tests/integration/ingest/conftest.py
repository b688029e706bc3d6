from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ingest_site import Site, Sites


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites = Sites(tmp_path)
    yield sites.make
    sites.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    made = make_site()
    made.add_device("cam-1")
    return made
