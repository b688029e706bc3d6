"""A directive's challengers: strict, and never without a champion."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from dsops import strictjson
from dsops.directive import Challenger, Directive
from dsops_agent.install.places import challenger_place, desired_places, is_challenger, model_of

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def slot(release: int) -> dict[str, Any]:
    return {
        "path": f"digits/{release}.int8.bundle",
        "sha256": f"{release:064x}",
        "length_bytes": 9,
        "release": release,
        "deployment": f"de-{release}",
    }


def challenger(**changes: object) -> dict[str, Any]:
    return {"bundle": slot(2), "mode": "shadow", "share": 0.2} | changes


def directive(**changes: object) -> Directive:
    fields: dict[str, Any] = {"fleet": "north", "device": "cam-1", "seq": 1, "slots": {"digits": slot(1)}}
    times = {"issued": NOW, "expires": NOW + timedelta(days=1)}
    return Directive.model_validate(fields | times | changes)


def test_it_travels_as_strict_json() -> None:
    made = directive(challengers={"digits": challenger(mode="split", cpu_share=0.5)})
    again = Directive.model_validate(strictjson.loads(strictjson.dumps(made.model_dump(mode="json"))))
    assert again == made
    assert Challenger.model_validate(challenger()).cpu_share == 0.25
    assert directive().challengers == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "canary"},
        {"share": 0},
        {"share": 1.5},
        {"share": float("nan")},
        {"cpu_share": 0},
        {"cpu_share": 2},
        {"bundle": slot(0)},
        {"surprise": 1},
    ],
)
def test_what_is_not_valid_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        directive(challengers={"digits": challenger(**wrong)})


@pytest.mark.parametrize("challengers", [{"words": challenger()}, {"digits": challenger(bundle=slot(1))}])
def test_a_challenger_needs_another_bundle_as_its_champion(challengers: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="needs another bundle as its champion"):
        directive(challengers=challengers)


def test_no_model_can_be_called_as_a_challengers_place_is() -> None:
    place = challenger_place("digits")
    assert (is_challenger(place), model_of(place)) == (True, "digits")
    assert (is_challenger("digits"), model_of("digits")) == (False, "digits")
    with pytest.raises(ValidationError):
        directive(slots={place: slot(1)})
    made = directive(challengers={"digits": challenger()})
    assert {name: wanted.release for name, wanted in desired_places(made).items()} == {"digits": 1, place: 2}
