"""Deltas between bundles: made once, kept beside the bundles, offered to devices that have the base.

Runs in the server, which has no NumPy.
"""
