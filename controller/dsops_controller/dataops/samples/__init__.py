"""Samples: rows for people, tensors for training, files for labelling tools."""
