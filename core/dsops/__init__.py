"""What both sides of dsops share: pure rules and wire values, no network, database or numeric package."""

__version__ = "0.1.0"

BUILD_TIME = "2026-11-27T00:00:00+00:00"
"""When this version was made: no device that runs it may believe that it is earlier. Set it with the version."""
