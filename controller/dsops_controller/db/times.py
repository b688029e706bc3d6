"""Moments as the state database holds them: epoch milliseconds, UTC."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_ms(moment: datetime) -> int:
    """Return a moment as epoch milliseconds."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def from_ms(value: int) -> datetime:
    """Return the moment of epoch milliseconds."""
    return _EPOCH + timedelta(milliseconds=value)
