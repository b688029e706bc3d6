"""What a challenger is asked."""

from enum import StrEnum


class Mode(StrEnum):
    """What a challenger is asked."""

    SHADOW = "shadow"  # copies of a share of the requests; nobody gets its answers
    SPLIT = "split"  # the requests of a share of the keys; their callers get its answers
