"""From a float TFLite model to smaller ones."""
