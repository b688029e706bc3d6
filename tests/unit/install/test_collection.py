"""What may be removed from the disk: over arbitrary disks, never a bundle that answers or that is the way back."""

from hypothesis import given
from hypothesis import strategies as st

from dsops_agent.install.collection import Garbage, Held, HeldSlot, garbage

DIGESTS = st.sampled_from("pqrst")
MODELS = ("digits", "words")
ENDINGS = st.sampled_from([".part", ".index", ".delta", ""])


@st.composite
def disks(draw: st.DrawFn) -> Held:
    """Any disk at all: links to empty slots, both slots of one digest, files of nobody."""
    keys = [(model, name) for model in MODELS for name in ("a", "b")]
    held = draw(st.lists(st.sampled_from(keys), unique=True))
    slots = tuple(HeldSlot(model, name, draw(DIGESTS), draw(st.booleans())) for model, name in held)
    active = draw(st.dictionaries(st.sampled_from(MODELS), st.sampled_from(["a", "b", ""])))
    staging = draw(st.frozensets(st.one_of(st.builds(str.__add__, DIGESTS, ENDINGS), st.just(".p.part.7.tmp"))))
    return Held(staging, slots, active)


@given(held=disks(), needed=st.frozensets(DIGESTS), is_short=st.booleans())
def test_the_active_and_the_previous_bundle_are_never_removed(
    held: Held, needed: frozenset[str], is_short: bool
) -> None:
    found = garbage(held, needed, is_short=is_short)
    for slot in found.slots:
        assert slot in held.slots
        assert held.active.get(slot.model) != slot.name, "it is active"
        assert not slot.committed, "it may be the way back"
        assert slot.digest not in needed, "an install goes on with it"
    for name in found.staging:
        assert name in held.staging
        assert not any(name.startswith(digest) for digest in needed)


@given(held=disks(), needed=st.frozensets(DIGESTS))
def test_everything_else_is_removed_when_room_is_short(held: Held, needed: frozenset[str]) -> None:
    found = garbage(held, needed, is_short=True)
    kept = [slot for slot in held.slots if slot not in found.slots]
    assert all(s.committed or s.digest in needed or held.active.get(s.model) == s.name for s in kept)
    assert all(name[0] in needed for name in held.staging - found.staging)


@given(held=disks(), needed=st.frozensets(DIGESTS), is_short=st.booleans())
def test_nothing_more_is_found_once_it_is_removed(held: Held, needed: frozenset[str], is_short: bool) -> None:
    found = garbage(held, needed, is_short=is_short)
    slots = tuple(slot for slot in held.slots if slot not in found.slots)
    left = Held(held.staging - found.staging, slots, held.active)
    assert garbage(left, needed, is_short=is_short) == Garbage(frozenset(), ())


def test_candidates_are_kept_while_there_is_room() -> None:
    held = Held(slots=(HeldSlot("digits", "b", "p", committed=False),), active={"digits": "a"})
    assert garbage(held, frozenset(), is_short=False).slots == ()
    assert garbage(held, frozenset(), is_short=True).slots == held.slots
