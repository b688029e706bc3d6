"""Any valid profile survives the way through its bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dsops.manifest import MAX_COUNT
from dsops.profile import MAX_HORIZON, MAX_HORIZONS, MIN_REFERENCE, Profile, Signal

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ascending = st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=12, unique=True).map(sorted)
lengths = st.lists(st.integers(1, MAX_HORIZON), min_size=1, max_size=MAX_HORIZONS, unique=True).map(sorted)


@st.composite
def counts(draw: st.DrawFn, frames: int, bins: int) -> tuple[int, ...]:
    """Share ``frames`` out to ``bins``."""
    cuts = sorted(draw(st.lists(st.integers(0, frames), min_size=bins - 1, max_size=bins - 1)))
    return tuple(b - a for a, b in zip([0, *cuts], [*cuts, frames], strict=True))


@st.composite
def signals(draw: st.DrawFn, name: str, frames: int) -> Signal:
    if draw(st.booleans()):
        return Signal(name=name, kind="categorical", counts=draw(counts(frames, draw(st.integers(2, 9)))))
    edges = tuple(draw(ascending))
    return Signal(name=name, kind="ordinal", edges=edges, counts=draw(counts(frames, len(edges) + 1)))


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    frames = draw(st.integers(MIN_REFERENCE, MAX_COUNT))
    wanted = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    return Profile(
        n_ref=frames,
        signals=tuple(draw(signals(name, frames)) for name in wanted),
        horizons=tuple(draw(lengths)),
        bet=draw(st.floats(0, 1, exclude_min=True)),
        arl0=draw(st.floats(10, 1e300, exclude_min=True)),
    )


@settings(max_examples=60)
@given(profiles())
def test_any_profile_comes_back(profile: Profile) -> None:
    assert Profile.decode(profile.encode()) == profile
    assert Profile.decode(profile.encode()).encode() == profile.encode()
