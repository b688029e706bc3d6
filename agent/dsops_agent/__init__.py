"""The device side of dsops."""
