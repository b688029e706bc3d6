import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops import strictjson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])),
                                                                inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_a_value_comes_back(value: object) -> None:
    assert strictjson.loads(strictjson.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}', b"NaN", b"[Infinity]", b"1e999", b"[" * 33 + b"]" * 33, b"[" * 100_000, b'{"a":',
        b"\xff", b"", b"9" * 5000,
    ],
)  # fmt: skip
def test_what_two_readers_could_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(strictjson.JsonRefused):
        strictjson.loads(text)


def test_brackets_inside_strings_do_not_nest() -> None:
    value = ["[" * 100, '\\"[{' * 50]
    assert strictjson.loads(strictjson.dumps(value)) == value


def test_numbers_that_are_none_are_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        strictjson.dumps(math.nan)
