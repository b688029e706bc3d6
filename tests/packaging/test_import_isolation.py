"""The agent's control process stays light: what it imports loads nothing of the data process or of the controller."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("numpy", "ai_edge_litert", "tflite_runtime", "fastapi", "sqlalchemy", "typer", "rich", "onnx")
LIST_LOADED = "import json, sys; import {module}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"


def loaded_by(module: str) -> set[str]:
    command = [sys.executable, "-c", LIST_LOADED.format(module=module)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stdout))


@pytest.mark.parametrize("module", ["dsops_agent.cli", "dsops_agent.app"])
def test_control_process_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(module)
    assert "dsops_agent" in loaded
    assert loaded.isdisjoint({*HEAVY, "dsops_controller"})


def test_core_loads_neither_side() -> None:
    loaded = loaded_by("dsops.bundle")
    assert "dsops" in loaded
    assert loaded.isdisjoint({*HEAVY, "dsops_agent", "dsops_controller", "paho", "grpc", "tuf"})
