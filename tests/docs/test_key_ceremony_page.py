"""docs/how-to/keys.md: its commands are run as they stand, in their order, by the program itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dsops.clock import SystemClock
from dsops_controller.trust import client
from dsops_controller.trust.ceremony import open_repository

PAGE = Path(__file__).parents[2] / "docs/how-to/keys.md"

# Signing asks a person at a terminal; here it is told that somebody has read it.
PROGRAM = """
set -euo pipefail
dsops() {
  local words=("$@")
  [[ $2 == sign ]] && words+=(--yes)
  "$PYTHON" -m dsops_controller.cli.app "${words[@]}"
}
"""


@pytest.mark.slow
@pytest.mark.integration
def test_the_ceremony_of_the_page_works(tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    script = PROGRAM + "".join(blocks)
    assert script.count("dsops trust publish") == 5
    surroundings = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = ["bash", "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    state = open_repository(tmp_path / "state").state()
    for number, root in enumerate(state.roots, start=1):  # devices of every age take the result
        client.accept(tmp_path / f"device-{number}", state.files(state.roles), root, ["digits/1"], SystemClock().now())
    assert len(state.roots) == 3
