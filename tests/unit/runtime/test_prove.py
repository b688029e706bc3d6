"""The throw-away process, started as the control process starts it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runtime_bundles import LABELS, make_bundle

from dsops.manifest import Budgets
from dsops_agent.runtime.prove import percentile


def prove(path: Path, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "dsops_agent.runtime.prove", str(path), "--threads", "1", *more],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_good_bundle(tmp_path: Path) -> None:
    result = prove(make_bundle(tmp_path).path, "--max-latency-ms", "1000")
    assert result["ok"] is True
    assert 0 < result["latency_ms"] <= result["p95_ms"]
    assert result["rss_bytes"] > 10 << 20
    assert result["runtime"].startswith("ai-edge-litert ")


def test_wrong_labels(tmp_path: Path) -> None:
    result = prove(make_bundle(tmp_path, labels=LABELS[::-1]).path)
    assert result["ok"] is False
    assert result["error"]["code"] == "bundle.golden_mismatch"
    assert result["error"]["message"] == "8 of 8 golden inputs are not answered as expected"


@pytest.mark.parametrize("flag", [True, False])
def test_too_slow_by_the_flag_or_by_the_manifest(tmp_path: Path, flag: bool) -> None:
    bundle = make_bundle(tmp_path, budgets=None if flag else Budgets(max_latency_ms=1e-6))
    result = prove(bundle.path, *(["--max-latency-ms", "0.000001"] if flag else []))
    assert result["error"]["code"] == "bundle.incompatible"
    assert result["error"]["why"] == "the limit is 1e-06 ms"


def test_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    assert prove(tmp_path / "x")["error"]["code"] == "bundle.malformed"
    assert prove(tmp_path / "absent")["error"]["code"] == "bundle.malformed"


def test_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([7.0], 0.95)) == (50.0, 95.0, 7.0)
