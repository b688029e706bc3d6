"""The demonstration itself: it ends well, and its figures are true of this run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.e2e
def test_the_demonstration_shows_the_whole_loop(tmp_path: Path) -> None:
    figures_file = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "dsops_controller.cli.app", "demo", "--devices", "2", "--seed", "5",
         "--json", str(figures_file)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads(figures_file.read_text())

    assert figures["float_accuracy"] >= 0.95
    assert figures["int8_accuracy"] >= max(0.95, figures["float_accuracy"] - 0.01)
    assert figures["devices_updated"] == 2
    assert 0 < figures["drift_alert_frames"] <= 100
    assert figures["drift_false_alarms"] == 0
    assert figures["accuracy_bad_camera_after"] > figures["accuracy_bad_camera_before"] + 0.1
    assert figures["bad_release_halted"] is True
    assert 0 < figures["delta_bytes"] < figures["fetched_bytes"] < figures["update_bytes"]
    assert figures["delta_bytes"] <= 0.6 * figures["update_bytes"]
    assert figures["unfit_release_refused"] == "incompatible.runtime"
    assert 0 < figures["unfit_release_fetched_bytes"] <= figures["unfit_release_documents_bytes"]
    assert figures["kit_bytes"] > 0
    assert figures["kit_bytes_over_the_network"] == 0
    assert figures["records_produced"] == figures["records_stored"] + figures["records_dropped"] > 0
    assert figures["duplicates"] == 0
    assert figures["inference_failures"] == 0
    assert figures["mqtt_bytes"] > 2 * (figures["update_bytes"] + figures["delta_bytes"])  # a whole bundle, a delta
    assert figures["grpc_bytes"] > 0
    assert "\x1b[" not in done.stdout  # piped, it prints plain lines
