"""The throw-away process, started as the control process starts it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runtime_bundles import LABELS, make_bundle, tflite
from runtime_watches import Witness

from dsops import strictjson
from dsops.bundle import Bundle, describe_blobs, encode_bundle, sha256_hex
from dsops.manifest import Budgets
from dsops_agent.runtime.engine import DEVICE_LIMITS
from dsops_agent.runtime.prove import percentile
from dsops_agent.runtime.swap import Models


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
    assert result["error"]["code"] == "incompatible.latency"
    assert result["error"]["why"] == "the limit is 1e-06 ms"


def test_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    assert prove(tmp_path / "x")["error"]["code"] == "bundle.malformed"
    assert prove(tmp_path / "absent")["error"]["code"] == "bundle.unreadable"


def with_profile(path: Path, change: dict[str, object]) -> Path:
    """Write a bundle whose profile says something else, and is otherwise right."""
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    blobs = {blob.name: bundle.read(blob.name) for blob in manifest.blobs}
    profile = strictjson.loads(blobs[manifest.profile])
    assert isinstance(profile, dict)
    blobs[manifest.profile] = strictjson.dumps(profile | change)
    changed = path.with_name("changed.bundle")
    changed.write_bytes(encode_bundle(manifest.model_copy(update={"blobs": describe_blobs(blobs)}), blobs))
    return changed


def humidity(frames: int) -> dict[str, object]:
    return {"name": "humidity", "kind": "ordinal", "edges": [0.5], "counts": [frames, 0]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"horizons": [10**30]}, "the profile is not valid"),
        ({"n_ref": 10**300}, "the profile is not valid"),
        ({"signals": [humidity(600)]}, "the profile does not watch what this classification is watched for"),
    ],
)
def test_a_profile_that_is_wrong_in_itself_or_for_this_model(
    tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    error = prove(with_profile(make_bundle(tmp_path).path, change))["error"]
    assert (error["code"], error["message"]) == ("bundle.malformed", expected)


def test_the_payload_is_looked_through_by_the_proof_and_not_again_by_the_server(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, payload=tflite() + bytes(DEVICE_LIMITS.trailing_bytes + 1))
    error = prove(bundle.path)["error"]
    assert error["code"] == "model.invalid"
    assert "bytes follow the model" in error["why"]
    models = Models(1, lambda _: Witness())
    assert (
        models.activate("compass", bundle.path, sha256_hex(bundle.path.read_bytes()), 1).model.digest == bundle.digest
    )


def test_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([7.0], 0.95)) == (50.0, 95.0, 7.0)
