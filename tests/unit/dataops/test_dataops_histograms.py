import math

from hypothesis import given
from hypothesis import strategies as st

from dsops.api.v1.telemetry_pb2 import Histogram
from dsops_controller.dataops.histograms import Merged, merged
from dsops_controller.dataops.testing import histogram

VALUES = st.lists(st.floats(1.0, 1e9), min_size=1, max_size=40)


@given(VALUES, VALUES, st.integers(0, 5), st.integers(0, 5))
def test_merging_equals_one_histogram_at_the_coarser_scale(
    a: list[float], b: list[float], scale_a: int, scale_b: int
) -> None:
    both = merged([histogram(a, scale_a), histogram(b, scale_b)])
    whole = merged([histogram(a + b, min(scale_a, scale_b))])
    assert (both.scale, both.buckets, both.low, both.high) == (whole.scale, whole.buckets, whole.low, whole.high)


@given(VALUES, st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_quantiles_are_within_the_bucket_of_the_true_value(values: list[float], q: float) -> None:
    found = merged([histogram(values, 4)]).quantile(q)
    true = sorted(values)[math.ceil(q * len(values) - 1e-9) - 1]
    assert found is not None
    assert true / 2 ** (1 / 16) <= found <= true * 2 ** (1 / 16)
    assert min(values) <= found <= max(values)


def test_nothing_has_no_quantile() -> None:
    assert Merged().quantile(0.5) is None
    assert merged([Histogram(scale=4)]).quantile(0.5) is None


def test_zeros_are_the_lowest_values() -> None:
    mixed = merged([Histogram(scale=4, offset=100, counts=[1], zero=3, count=4, min=0.0, max=80.0)])
    assert mixed.quantile(0.5) == 0.0
    assert mixed.quantile(1.0) is not None
    assert mixed.quantile(1.0) != 0.0


def test_extremes_that_are_not_finite_are_left_out() -> None:
    odd = merged([Histogram(scale=4, offset=100, counts=[4], count=4, min=math.inf, max=math.nan)])
    assert math.isfinite(odd.quantile(0.5) or math.nan)
