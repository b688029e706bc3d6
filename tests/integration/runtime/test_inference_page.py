"""docs/how-to/inference.md: its programs are run as they stand, but for the socket and the size of a frame."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from runtime_bundles import LABELS, make_bundle
from serving_runtime import serving

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[3] / "docs/how-to/inference.md"


def here(program: str, socket: Path) -> str:
    """Return a program for the model that there is here."""
    for told, meant in (("/run/dsops/inference.sock", str(socket)), ("8, 8, 1", "4, 4, 1")):
        assert told in program
        program = program.replace(told, meant)
    return program


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def programs(page: str) -> list[str]:
    """Return its blocks of Python that are whole: the others go on with what those have made."""
    return [
        block for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "import" in block
    ]


@pytest.mark.slow
def test_the_programs_of_the_page_are_answered(short_path: Path, tmp_path: Path) -> None:
    own, other = programs(PAGE.read_text())
    with serving(short_path, make_bundle(tmp_path, model="digits")):
        for program in (own, other):
            said = run(here(program, short_path / "inference.sock"))
            assert said.returncode == 0, said.stderr
            assert any(name in said.stdout for name in LABELS), said.stdout


def test_both_clients_in_one_process_are_refused_as_the_page_says() -> None:
    refusal = "duplicate symbol 'inference.ServerLiveRequest'"
    assert refusal in PAGE.read_text()
    said = run("import tritonclient.grpc\nfrom dsops.client import Inference\nInference('/nowhere', 'x').metadata()")
    assert refusal in said.stderr
