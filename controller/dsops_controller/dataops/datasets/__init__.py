"""Data sets: immutable versions of labelled samples, and the models that were built of them."""
