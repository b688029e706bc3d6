"""One step of our build as a process of its own, so that its time and memory can be told.

``python -m measure.ours convert MODEL.onnx FLOAT.tflite`` or ``quantize FLOAT.tflite CALIBRATION.npz INT8.tflite``.
"""

import sys
from pathlib import Path

from dsops_controller.build.conversion.convert import read_model
from dsops_controller.build.data import read_data
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.quantization.quantize import QuantMode, quantize


def main() -> None:
    """Run the step."""
    step, *paths = sys.argv[1:]
    files = [Path(path) for path in paths]
    if step == "convert":
        files[1].write_bytes(read_model(files[0]))
        return
    model = files[0].read_bytes()
    frames = read_data(files[1], LitertModel(model).inputs, "the calibration data", needs_truth=False)
    files[2].write_bytes(quantize(model, QuantMode.INT8, frames).data)


if __name__ == "__main__":
    main()
