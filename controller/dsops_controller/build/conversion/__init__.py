"""From ONNX, or TFLite of any age, to a float TFLite model."""
