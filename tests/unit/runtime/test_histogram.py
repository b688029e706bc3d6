"""The exponential histogram against its definition."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops_agent.runtime.histogram import MAX_BUCKETS, START_SCALE, Histogram, bucket_index


@given(st.floats(min_value=1e-3, max_value=1e12), st.integers(-3, START_SCALE))
def test_a_value_lies_in_its_bucket(value: float, scale: int) -> None:
    base = 2.0 ** (2.0**-scale)
    index = bucket_index(value, scale)
    assert base**index * (1 - 1e-12) < value <= base ** (index + 1) * (1 + 1e-12)


@pytest.mark.parametrize("exponent", [-5, -1, 0, 1, 7, 20])
@pytest.mark.parametrize("scale", [-2, -1, 0, 1, 4])
def test_a_power_of_two_is_the_upper_border_of_its_bucket(exponent: int, scale: int) -> None:
    index = bucket_index(2.0**exponent, scale)
    assert (index + 1) * 2.0**-scale >= exponent > index * 2.0**-scale


def test_the_wire_form_tells_every_value() -> None:
    histogram = Histogram()
    for value in (1.0, 2.0, 2.0, 4.0, 0.0):
        histogram.add(value)
    message = histogram.encode()
    assert (message.count, message.zero, message.sum, message.min, message.max) == (5, 1, 9.0, 0.0, 4.0)
    assert message.scale == START_SCALE
    assert message.offset == -1  # (base^-1, base^0] holds 1
    assert list(message.counts) == [1, *[0] * 15, 2, *[0] * 15, 1]


def test_an_empty_one_has_no_buckets() -> None:
    message = Histogram().encode()
    assert (message.count, list(message.counts), message.min, message.max) == (0, [], 0.0, 0.0)


def test_a_wide_range_halves_the_scale_and_loses_nothing() -> None:
    histogram = Histogram()
    chance = random.Random(1)
    values = [10 ** chance.uniform(-2, 9) for _ in range(3000)]
    for value in values:
        histogram.add(value)
    message = histogram.encode()
    assert len(message.counts) <= MAX_BUCKETS
    assert message.scale == 2
    assert sum(message.counts) == 3000
    base = 2.0 ** (2.0**-message.scale)
    for place, count in enumerate(message.counts):
        low, high = base ** (message.offset + place), base ** (message.offset + place + 1)
        assert count == sum(low < value <= high for value in values)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_what_is_no_time_counts_as_zero(value: float) -> None:
    histogram = Histogram()
    histogram.add(value)
    message = histogram.encode()
    assert (message.count, message.zero, message.sum) == (1, 1, 0.0)
