"""``dsops challenger`` against a controller: what it refuses, and what it says of nothing."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.integration

Dsops = Callable[..., Any]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("set", "digits/2"), 2, "request.invalid_input"),
        (("set", "digits/2", "--shadow", "20", "--split", "10"), 2, "request.invalid_input"),
        (("set", "digits/2", "--shadow", "0"), 2, "request.invalid_input"),
        (("set", "digits/2", "--split", "101"), 2, "request.invalid_input"),
        (("set", "digits/2", "--shadow", "20", "--cpu", "-1"), 2, "request.invalid_input"),
        (("set", "digits", "--shadow", "20"), 2, "request.invalid_input"),
        (("set", "digits/777", "--shadow", "20"), 5, "request.not_found"),
        (("clear", "never-there"), 5, "request.not_found"),
        (("clear", "Never There"), 2, "request.invalid_input"),
        (("promote", "never-there"), 5, "request.not_found"),
        (("promote", "never-there", "--wave", "some"), 5, "request.not_found"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(dsops: Dsops, words: tuple[str, ...], code: int, error: str) -> None:
    refused = dsops("challenger", *words, "-o", "json")
    assert (refused.code, refused.error["code"]) == (code, error), refused
    assert refused.error["message"]


def test_nothing_is_shown_where_there_is_nothing(dsops: Dsops) -> None:
    shown = dsops("challenger", "show", "never-there", "-o", "json").result
    assert shown == {"challengers": [], "comparisons": []}
    assert dsops("challenger", "show").code == 0
