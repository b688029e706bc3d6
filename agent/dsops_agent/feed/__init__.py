"""Sources: frames for inference on devices that have no program of their own, and sinks for the answers."""
