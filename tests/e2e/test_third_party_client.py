"""A client of the Open Inference Protocol that nobody here wrote gets answers from a running agent."""

import json
import subprocess
import sys

import pytest
from fleet_stage import DEVICES, Fleet, plan, wait_for

from dsops_controller.demo import digits

# A process of its own: the client's generated code and ours describe the same protocol and cannot share one process.
PROGRAM = """
import json, sys
import numpy as np
import tritonclient.grpc as oip

client = oip.InferenceServerClient("unix://" + sys.argv[1])
frame = np.array(json.load(sys.stdin), np.float32)
image = oip.InferInput("image", list(frame.shape), "FP32")
image.set_data_from_numpy(frame)
answer = client.infer("digits", [image], request_id="42")
metadata = client.get_model_metadata("digits", as_json=True)
print(json.dumps({
    "live": client.is_server_live(), "ready": client.is_server_ready(), "model": client.is_model_ready("digits"),
    "versions": metadata["versions"], "inputs": [i["name"] for i in metadata["inputs"]],
    "labels": [label.decode() for label in answer.as_numpy("label")], "scores": answer.as_numpy("scores").tolist(),
    "id": answer.get_response().id,
}))
"""


@pytest.mark.e2e
def test_tritonclient_gets_metadata_and_predictions(fleet: Fleet) -> None:
    fleet.publish(1)
    rollout = fleet.client.create_rollout(plan(1))["id"]
    wait_for("the rollout ends", lambda: fleet.client.rollout(rollout)["state"] == "succeeded")
    frames = digits.splits(7).test.x[:50]
    truth = [str(label) for label in digits.splits(7).test.y[:50]]

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(fleet.inference_socket(DEVICES[0]))],
        input=json.dumps(frames.tolist()), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["live"], said["ready"], said["model"]) == (True, True, True)
    assert (said["versions"], said["inputs"], said["id"]) == (["1"], ["image"], "42")
    assert len(said["scores"]) == len(truth)
    assert all(abs(sum(scores) - 1) < 0.05 for scores in said["scores"])
    right = sum(given == expected for given, expected in zip(said["labels"], truth, strict=True))
    assert right >= 45
