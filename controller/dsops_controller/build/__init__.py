"""The build side: a trained network becomes a quantized, evaluated, profiled bundle."""
