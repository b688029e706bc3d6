"""How good a variant is, and whether that is good enough."""
