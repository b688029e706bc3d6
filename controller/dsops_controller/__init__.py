"""The operator side of dsops."""
