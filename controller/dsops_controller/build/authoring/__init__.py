"""Writes a recipe by looking at a model."""
