"""Drift monitor and sampler of the data process."""
