"""Bundles that several owners approve in turn: the next one signs only what they would have signed alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsops.errors import Conflict, UntrustedBundle
from dsops_controller.trust.bundle_roles import approve
from dsops_controller.trust.roles import read_role
from dsops_controller.trust.testing import MakeBundle

DAY_S = 86400.0


@pytest.fixture
def sign(council: Any) -> Callable[..., bytes]:
    """Return what approves a bundle of a model that erin and frank own, both of whom must sign."""
    council.found().grant("digits", "erin", "frank")

    def run(bundle: Path, *names: str, pending: bytes | None = None) -> bytes:
        keys = [council.key(name) for name in names]
        return approve(bundle, council.repository.role("model-digits"), keys, council.clock.now(), pending=pending)

    return run


def test_owners_sign_one_after_the_other(council: Any, sign: Callable[..., bytes], bundle: MakeBundle) -> None:
    path = bundle()
    first = sign(path, "erin")
    with pytest.raises(UntrustedBundle, match="1 of 2 signatures; missing: frank"):
        council.repository.publish_role(first)
    assert len(read_role(sign(path, "erin", pending=first)).signatures) == 1
    council.clock.advance(2 * DAY_S)
    council.repository.publish_role(sign(path, "frank", pending=first))
    assert council.repository.target("digits/1.int8.bundle") is not None
    assert sign(path, "frank") == council.repository.role("model-digits")  # signed before: nothing to do


def test_a_co_owner_cannot_slip_another_bundle_in(sign: Callable[..., bytes], bundle: MakeBundle) -> None:
    theirs = sign(bundle(payload=b"other weights"), "erin")
    with pytest.raises(UntrustedBundle, match="what another owner signed is not this bundle"):
        sign(bundle(), "frank", pending=theirs)
    both = json.loads(sign(bundle(), "erin"))
    both["signed"]["targets"]["digits/9.int8.bundle"] = next(iter(both["signed"]["targets"].values()))
    with pytest.raises(UntrustedBundle, match="what another owner signed is not this bundle"):
        sign(bundle(), "frank", pending=json.dumps(both).encode())


@pytest.mark.parametrize(
    "change", [{"expires": "2036-01-01T00:00:00Z"}, {"expires": "2020-01-01T00:00:00Z"}, {"version": 9}, {"x-note": 1}]
)
def test_a_co_owner_cannot_change_anything_else(
    sign: Callable[..., bytes], bundle: MakeBundle, change: dict[str, Any]
) -> None:
    document = json.loads(sign(bundle(), "erin"))
    document["signed"] |= change
    with pytest.raises(UntrustedBundle, match="what another owner signed is not this bundle"):
        sign(bundle(), "frank", pending=json.dumps(document).encode())


def test_what_was_signed_of_an_earlier_release_is_left_behind(
    council: Any, sign: Callable[..., bytes], bundle: MakeBundle
) -> None:
    old = sign(bundle(release=1), "erin", "frank")
    council.repository.publish_role(old)
    fresh = read_role(sign(bundle(release=2), "erin", pending=old))
    assert (fresh.version, len(fresh.signatures)) == (3, 1)


def test_a_release_below_the_newest_is_not_signed(council: Any, sign: Callable[..., bytes], bundle: MakeBundle) -> None:
    council.repository.publish_role(sign(bundle(release=2), "erin", "frank"))
    with pytest.raises(Conflict, match="is old"):
        sign(bundle(release=1), "erin")
