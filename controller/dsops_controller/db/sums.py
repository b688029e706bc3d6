"""Sums of counters that devices tell: they never fail, however large the counters are."""

from sqlalchemy import Column, ColumnElement, Double, cast, func


def whole_sum(column: Column[int]) -> ColumnElement[float]:
    """Return the sum of a column as a floating-point number, 0 without rows; exact below 2^53.

    SQLite ends a sum of integers above 2^63-1 with an error, and with it everything that is read in the same answer.
    """
    return func.coalesce(func.sum(cast(column, Double)), 0.0)
