"""Rollouts: a plan over devices in waves, a pure engine that steps it, and the driver that persists and publishes."""
