"""The trust stage as fixtures; it is shared with tests/security."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from trust_stage import Bench, opened
from trust_stage import new_signer as make_signer


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with opened(tmp_path / "trust") as made:
        yield made


@pytest.fixture
def new_signer() -> Callable[[], CryptoSigner]:
    return make_signer
