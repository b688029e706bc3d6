"""Adapters to other systems of an ML engineer's desk. Each implements a port of the part that uses it."""
