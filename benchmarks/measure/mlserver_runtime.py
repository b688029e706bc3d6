"""MLServer's side of the inference benchmark: the runtime class that its own documents tell users to write for LiteRT.

Runs in MLServer's environment and imports nothing of ours.
"""

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class LitertModel(MLModel):
    """A payload in one interpreter on one thread, frame by frame."""

    async def load(self) -> bool:
        """Load the payload that the model's settings name."""
        data = Path(self.settings.parameters.uri).read_bytes()
        self._interpreter = Interpreter(model_content=data, num_threads=1)
        self._interpreter.allocate_tensors()
        self._in, self._out = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the real scores of stored frames."""
        frames, rows = NumpyCodec.decode_input(payload.inputs[0]), []
        for number in range(len(frames)):
            self._interpreter.set_tensor(self._in["index"], frames[number : number + 1])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._out["index"]))
        scale, zero = self._out["quantization"]
        scores = np.concatenate(rows).astype(np.float32)
        scores = (scores - np.float32(zero)) * np.float32(scale) if scale else scores
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", scores)])
