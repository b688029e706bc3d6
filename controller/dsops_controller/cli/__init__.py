"""The command line of operators and ML engineers: ``dsops <noun> <verb>``."""
