"""Where chunks come from: the broker, and other sources behind the same port, one after the other."""
