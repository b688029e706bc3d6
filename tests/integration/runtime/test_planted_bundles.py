"""Bundles that must not serve: each leaves its reason, and the champion answers throughout."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import planted
import pytest
from champion_stage import Champion
from runtime_bundles import MadeBundle

from dsops.errors import DsopsError
from dsops_agent.install.ports import ProveLimits
from dsops_agent.proof import Prover

pytestmark = pytest.mark.integration

MEMORY_BYTES = 500 << 20
PATIENCE_S = 8.0


@pytest.fixture(scope="module")
def serving() -> Iterator[Champion]:
    with tempfile.TemporaryDirectory(prefix="ds") as name:  # a test's own folder may be too long for a socket
        made = Champion(Path(name), planted.champion(Path(name)))
        yield made
        made.close()


def prove(bundle: MadeBundle, champion: Champion) -> DsopsError | None:
    limits = ProveLimits(PATIENCE_S, MEMORY_BYTES, champion.bundle.path, slowdown=2.0)
    try:
        Prover(threads=1).prove(bundle.path, limits)
    except DsopsError as error:
        return error
    return None


PLANTED = [
    (planted.kills_the_loader, "model.invalid", "DEPTHWISE_CONV_2D"),
    (planted.takes_all_memory, "incompatible.memory", "memory"),
    (planted.never_ends, "device.runtime_crashed", "no answer within 8 s"),
    (planted.loops, "model.invalid", "WHILE"),
    (planted.says_nan, "bundle.golden_mismatch", "output 'probabilities' is off by nan"),
    (planted.is_slower, "incompatible.latency", "times the active release's"),
    (planted.has_a_flipped_byte, "bundle.golden_mismatch", "taken for 'north', expected 'east'"),
    (planted.was_damaged_on_its_way, "bundle.digest_mismatch", "is not what its manifest names"),
    (planted.has_permuted_labels, "bundle.golden_mismatch", "input 0: taken for 'east', expected 'north'"),
    (planted.expects_other_pixels, "bundle.golden_mismatch", "input 0: taken for 'south', expected 'north'"),
    (planted.takes_white_for_black, "bundle.golden_mismatch", "taken for"),
    (planted.squeezes_the_frame, "bundle.golden_mismatch", "taken for"),
    (planted.has_other_inputs, "model.invalid", "the manifest tells"),
]


@pytest.mark.parametrize(("plant", "code", "said"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED])
def test_a_planted_bundle_is_refused_by_its_name(
    serving: Champion, tmp_path: Path, plant: Callable[[Path], MadeBundle], code: str, said: str
) -> None:
    found = prove(plant(tmp_path), serving)
    assert found is not None
    assert found.code == code
    assert said in f"{found} {found.why}"
    serving.wait_for_answers(5)
    assert serving.program.problems == []
    assert set(serving.program.answers) == {serving.bundle.digest}


@pytest.mark.parametrize("plant", [planted.good, planted.takes_frames])
def test_a_good_bundle_is_proved_beside_the_champion(
    serving: Champion, tmp_path: Path, plant: Callable[[Path], MadeBundle]
) -> None:
    assert prove(plant(tmp_path), serving) is None


def test_the_deadly_payload_is_deadly(tmp_path: Path) -> None:
    """Without the look through its structure it kills the process that loads it."""
    payload = tmp_path / "model.tflite"
    payload.write_bytes(planted.deadly())
    program = (
        "import sys, numpy as np\n"
        "from ai_edge_litert.interpreter import Interpreter\n"
        "loaded = Interpreter(model_content=open(sys.argv[1], 'rb').read())\n"
        "loaded.allocate_tensors()\n"
        "loaded.set_tensor(loaded.get_input_details()[0]['index'], np.zeros((1, 4, 4, 1), np.int8))\n"
        "loaded.invoke()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, payload], capture_output=True, check=False)
    assert ended.returncode < 0, ended
