"""Compares a TFLite model with onnxruntime; runs in onnx2tf's environment, which has both runtimes.

``python parity_peer.py MODEL.onnx FRAMES.npz MODEL.tflite...`` prints JSON: for each TFLite file the largest difference
of an output from onnxruntime's, over the largest output. ``x`` in FRAMES is [N, H, W, C].
"""

import json
import sys

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter


def outputs(path: str, frames: np.ndarray) -> np.ndarray:
    """Return the outputs of a TFLite model whose input may be NHWC or NCHW."""
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    given, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for frame in frames:
        batch = frame[None] if tuple(given["shape"][1:]) == frame.shape else frame.transpose(2, 0, 1)[None]
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        found.append(interpreter.get_tensor(got["index"])[0])
    return np.stack(found)


def main() -> None:
    """Compare."""
    model, data, *candidates = sys.argv[1:]
    frames = np.load(data)["x"]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    expected = np.stack([session.run(None, {name: frame.transpose(2, 0, 1)[None]})[0][0] for frame in frames])
    scale = float(np.abs(expected).max())
    print(json.dumps({path: float(np.abs(outputs(path, frames) - expected).max()) / scale for path in candidates}))


if __name__ == "__main__":
    main()
