"""The TFLiteConverter peer; runs in TensorFlow's own environment: ``python keras_peer.py FOLDER``.

FOLDER holds ``plan.json``, ``weights.npz`` and ``calibration.npz`` (``x`` [N, H, W, C]). Builds the same network in
Keras and writes ``int8.tflite`` there (weights, activations, inputs and outputs are int8).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Tensor: TypeAlias = Any
"""Keras has no types of its own for symbolic tensors."""


class Building:
    """Keras tensors by layer name; NHWC."""

    def __init__(self, plan: dict[str, Any], weights: dict[str, Any]) -> None:
        self.weights = weights
        side, channels = plan["side"], plan["channels"]
        self.values: dict[str, Tensor] = {"input": keras.Input((side, side, channels), batch_size=1, name="image")}
        self.flat_from: dict[str, tuple[int, ...]] = {}
        for layer in plan["layers"]:
            inputs = [self.values[name] for name in layer["inputs"]]
            self.values[layer["name"]] = getattr(self, layer["op"])(layer, *inputs)
        self.model = keras.Model(self.values["input"], self.values[plan["layers"][-1]["name"]])

    def conv(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        """A convolution with explicit padding; depthwise when every channel is a group of its own."""
        weight, bias = self.weights[f"{layer['name']}.weight"], self.weights[f"{layer['name']}.bias"]
        if layer["pad"] and layer["stride"] > 1:
            x = layers.ZeroPadding2D(layer["pad"])(x)
        padding = "same" if layer["pad"] and layer["stride"] == 1 else "valid"
        if layer["groups"] > 1:
            made = layers.DepthwiseConv2D(layer["kernel"], layer["stride"], padding)
            arrays = [weight.transpose(2, 3, 0, 1), bias]
        else:
            made = layers.Conv2D(len(bias), layer["kernel"], layer["stride"], padding)
            arrays = [weight.transpose(2, 3, 1, 0), bias]
        y = made(x)
        made.set_weights(arrays)
        return y

    def dense(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        """A dense layer; its rows are reordered when its input was flattened from [H, W, C]."""
        weight, bias = self.weights[f"{layer['name']}.weight"], self.weights[f"{layer['name']}.bias"]
        shape = self.flat_from.get(layer["inputs"][0])
        if shape:
            height, width, depth = shape
            weight = weight.reshape(depth, height, width, -1).transpose(1, 2, 0, 3).reshape(len(weight), -1)
        made = layers.Dense(len(bias))
        y = made(x)
        made.set_weights([weight, bias])
        return y

    def maxpool(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        """Maximum; what is padded comes from a ReLU, so zeros change nothing."""
        padded = layers.ZeroPadding2D(layer["pad"])(x) if layer["pad"] else x
        return layers.MaxPooling2D(layer["kernel"], layer["stride"])(padded)

    def flatten(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        """[H, W, C] to one axis."""
        self.flat_from[layer["name"]] = tuple(x.shape[1:])
        return layers.Flatten()(x)

    def relu(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        """max(x, 0)."""
        return layers.ReLU()(x)

    def relu6(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        """min(max(x, 0), 6)."""
        return layers.ReLU(6.0)(x)

    def add(self, layer: dict[str, Any], x: Tensor, y: Tensor) -> Tensor:
        """Sum of two."""
        return layers.Add()([x, y])

    def mean(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        """Mean over height and width."""
        return layers.GlobalAveragePooling2D()(x)

    def softmax(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        """Probabilities."""
        return layers.Softmax()(x)


def main() -> None:
    """Convert."""
    folder = Path(sys.argv[1])
    frames = np.load(folder / "calibration.npz")["x"]
    plan = json.loads((folder / "plan.json").read_text())
    model = Building(plan, dict(np.load(folder / "weights.npz"))).model

    def representative() -> Iterator[list[Any]]:
        for frame in frames:
            yield [frame[None]]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (folder / "int8.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main()
