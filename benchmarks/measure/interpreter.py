"""The least that runs a quantized model: LiteRT, and NumPy around it. Run as a program it shows what that weighs."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from measure.asking import Loop
from measure.child import wait_for_end_of_input

Floats = NDArray[np.float32]


class BareInterpreter:
    """One int8 model in one interpreter on one thread, frame by frame."""

    def __init__(self, model: Path) -> None:
        self._interpreter = Interpreter(model_content=model.read_bytes(), num_threads=1)
        self._interpreter.allocate_tensors()
        self._in: dict[str, Any] = self._interpreter.get_input_details()[0]
        self._out: dict[str, Any] = self._interpreter.get_output_details()[0]

    def run(self, frames: Floats) -> Floats:
        """Return scores float32 [n, C] of frames float32 [n, ...]."""
        scale, zero = self._in["quantization"]
        stored = np.clip(np.rint(frames / np.float32(scale)) + zero, -128, 127).astype(np.int8)
        rows = []
        for number in range(len(stored)):
            self._interpreter.set_tensor(self._in["index"], stored[number : number + 1])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._out["index"]))
        scale, zero = self._out["quantization"]
        scores: Floats = (np.concatenate(rows).astype(np.float32) - np.float32(zero)) * np.float32(scale)
        return scores


def main() -> None:
    """Load a model, answer some frames, stay until the end of the input: what LiteRT and NumPy weigh by themselves."""
    loop = Loop(Path(sys.argv[1]))
    loop.warm_up()
    wait_for_end_of_input()


if __name__ == "__main__":
    main()
