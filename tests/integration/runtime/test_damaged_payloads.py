"""Hundreds of damaged payloads, each on its whole way: whoever tries them and whoever serves beside them lives on."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import planted
import pytest
from champion_stage import Champion
from runtime_bundles import MadeBundle, make_bundle
from tflite_mutations import random_mutants, semantic_mutants

from dsops.errors import DsopsError
from dsops_agent.install.ports import ProveLimits
from dsops_agent.proof import Prover

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EACH = 260
SHARES = 8
"""Each with a serving process of its own, so that several can be tried at once."""
RATE_HZ = 20.0
LIMITS = ProveLimits(30.0, 2 << 30)
LEAST_REFUSED = 0.5


@pytest.fixture
def serving() -> Iterator[Champion]:
    with tempfile.TemporaryDirectory(prefix="ds") as name:  # a test's own folder may be too long for a socket
        made = Champion(Path(name), planted.champion(Path(name)), RATE_HZ)
        yield made
        made.close()


def try_out(bundle: MadeBundle, champion: Champion) -> str:
    """Prove a bundle; serve it beside the champion and ask it, should it be proved. Return how that ended."""
    try:
        Prover(threads=1).prove(bundle.path, LIMITS)
    except DsopsError as error:
        return error.code
    champion.activate(bundle)
    champion.process.channel.call("check", timeout_s=20.0, model=bundle.manifest.model)
    champion.process.channel.call("deactivate", timeout_s=20.0, model=bundle.manifest.model)
    return "served"


@pytest.mark.parametrize("share", range(SHARES))
def test_the_serving_process_survives_every_damaged_payload(serving: Champion, tmp_path: Path, share: int) -> None:
    right = planted.compass(layers=2)
    every = [*random_mutants(right, EACH, seed=11), *semantic_mutants(planted.compass(), EACH, seed=12)]
    damaged = every[share::SHARES]
    pid = serving.process.pid
    ends: Counter[str] = Counter()
    for payload in damaged:
        ends[try_out(make_bundle(tmp_path, model="mutant", int8=False, payload=payload), serving)] += 1
    assert ends.total() == len(damaged)
    assert ends.total() - ends["served"] >= LEAST_REFUSED * ends.total(), ends
    assert serving.status()["pid"] == pid
    serving.wait_for_answers(20)
    assert serving.program.problems == []
    assert set(serving.program.answers) == {serving.bundle.digest}
