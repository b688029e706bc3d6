"""Any valid profile survives the way through its bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dsops.profile import MIN_REFERENCE, Profile, Signal

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
counts = st.integers(0, 2**53)
ascending = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12, unique=True).map(sorted)
lengths = st.lists(st.integers(1, 10**6), min_size=1, max_size=4)


@st.composite
def signals(draw: st.DrawFn) -> Signal:
    if draw(st.booleans()):
        return Signal(
            name=draw(names), kind="categorical", counts=tuple(draw(st.lists(counts, min_size=2, max_size=9)))
        )
    edges = tuple(draw(ascending))
    bins = draw(st.lists(counts, min_size=len(edges) + 1, max_size=len(edges) + 1))
    return Signal(name=draw(names), kind="ordinal", edges=edges, counts=tuple(bins))


profiles = st.builds(
    Profile,
    n_ref=st.integers(MIN_REFERENCE, 2**53),
    signals=st.lists(signals(), min_size=1, max_size=5).map(tuple),
    horizons=lengths.map(tuple),
    bet=st.floats(0, 1, exclude_min=True),
    arl0=st.floats(10, 1e300, exclude_min=True),
)


@settings(max_examples=60)
@given(profiles)
def test_any_profile_comes_back(profile: Profile) -> None:
    assert Profile.decode(profile.encode()) == profile
    assert Profile.decode(profile.encode()).encode() == profile.encode()
