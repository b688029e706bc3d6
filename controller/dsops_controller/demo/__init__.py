"""The demonstration's own data and training: real digits, a small network, a camera that goes bad."""
