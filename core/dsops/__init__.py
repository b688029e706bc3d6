"""What both sides of dsops share: pure rules and wire values, no network, database or numeric package."""

__version__ = "0.1.0"
