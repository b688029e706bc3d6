import hashlib
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from dsops import dsse, ids, messages
from dsops.bundle import sha256_hex
from dsops.chunks import MAX_CHUNKS
from dsops.errors import (
    ForeignReport,
    ForkedReport,
    InvalidInput,
    MalformedBundle,
    MalformedReport,
    ReplayedReport,
    UnsignedReport,
    every_error,
    from_dict,
)
from dsops.messages import Connection, ModelState, Need, Observed, TrustPack
from dsops.profile import Profile, Signal
from dsops.states import Deployment, Install, deployment_state
from dsops.topics import Topics

KEY = ec.generate_private_key(ec.SECP256R1())
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True).filter(lambda name: name != "controller")


def observed() -> Observed:
    state = ModelState(active="0" * 64, active_release=2, install=Install.COMMITTED, deployment="de-1")
    return Observed(device="cam-1", counter=3, time=datetime(2026, 1, 1, tzinfo=UTC), seq=7, models={"digits": state})


def test_a_report_is_believed_only_with_a_key_of_the_device() -> None:
    data, other = observed().sign(KEY), ec.generate_private_key(ec.SECP256R1()).public_key()
    report = messages.check_observed(data, (other, KEY.public_key()), "cam-1")
    assert report == messages.Report(observed(), sha256_hex(observed().payload()))
    for keys in ((), (other,)):
        with pytest.raises(UnsignedReport):
            messages.check_observed(data, keys, "cam-1")
    with pytest.raises(ForeignReport, match="cam-1"):
        messages.check_observed(data, (KEY.public_key(),), "cam-2")


@pytest.mark.parametrize("payload", [b"{}", b"\xff", observed().payload().replace(b'"counter":3', b'"counter":0')])
def test_a_signed_report_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedReport):
        messages.check_observed(messages.sign_observed(payload, KEY), (KEY.public_key(),), "cam-1")


def test_a_signed_directive_is_no_report() -> None:
    data = dsse.sign("application/vnd.dsops.directive.v1+json", observed().payload(), KEY).encode()
    with pytest.raises(UnsignedReport, match="another type"):
        messages.check_observed(data, (KEY.public_key(),), "cam-1")


def chained(counter: int, previous: str | None, seq: int = 7) -> messages.Report:
    said = observed().model_copy(update={"counter": counter, "previous": previous, "seq": seq})
    return messages.Report(said, sha256_hex(said.payload()))


def test_a_report_must_follow_from_the_newest_one() -> None:
    newest = chained(5, "4" * 64)
    last = messages.LastReport(5, newest.digest)
    assert messages.continues(newest, None)
    assert messages.continues(newest, last) is False
    assert messages.continues(chained(6, newest.digest), last)
    assert messages.continues(chained(8, "7" * 64), last)
    for forked in (chained(5, "4" * 64, seq=8), chained(6, "5" * 64), chained(6, None)):
        with pytest.raises(ForkedReport):
            messages.continues(forked, last)
    with pytest.raises(ReplayedReport, match="number 4, 5 is known"):
        messages.continues(chained(4, "3" * 64), last)


@given(NAMES)
def test_topics_come_back_and_stay_below_seven_slashes(name: str) -> None:
    topics = Topics()
    for kind, topic in {"conn": topics.connection(name), "state": topics.state(name), "need": topics.need(name),
                        "ack": topics.ack(name)}.items():  # fmt: skip
        assert topics.parse_up(topic) == (name, kind)
        assert topic.count("/") <= 7
    assert topics.parse_up(topics.desired(name)) is None
    assert topics.parse_chunk(topics.chunk("0" * 64)) == "0" * 64
    assert topics.parse_chunk(topics.trust()) is None


@pytest.mark.parametrize("name", ["", "controller", "a/b", "+", "#", "-x", "a" * 65, "ü"])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        ids.device_id(name)


def test_unsigned_messages_are_checked() -> None:
    birth = Connection(device="cam-1", online=True, boot_id="b", conn_seq=1)
    assert messages.decode(Connection, birth.encode()) == birth
    need = Need(digests=("0" * 64,))
    assert messages.decode(Need, need.encode()) == need
    of_a_file = Need.of("1" * 64, (9, 0))
    assert messages.decode(Need, of_a_file.encode()) == of_a_file
    both = b'{"digests":["%s"],"index":"%s","missing":"AQ=="}' % (b"0" * 64, b"1" * 64)
    no_number = b'{"index":"%s","missing":"%s"}'
    bitmaps = [no_number % (b"1" * 64, bits) for bits in (b"", b"AAAA", b"!", b"A", b"A" * 400)]
    for data in (b"{}", b"[", b"\xff", b"x" * 70_000, b'{"digests":["../etc"]}', both, b'{"missing":"AQ=="}', *bitmaps):
        with pytest.raises(InvalidInput):
            messages.decode(Need, data)


@given(numbers=st.sets(st.integers(0, MAX_CHUNKS - 1), min_size=1))
def test_any_chunks_of_any_index_fit_one_request(numbers: set[int]) -> None:
    need = messages.decode(Need, Need.of("1" * 64, numbers).encode())
    assert need.numbers == tuple(sorted(numbers))
    assert len(need.encode()) < 500


def test_a_pack_carries_bytes() -> None:
    pack = TrustPack.of({"1.root.json": b"\x00\xff"}, {"fleet/director.json": b"{}"})
    again = messages.decode(TrustPack, pack.encode())
    assert again.files() == {"1.root.json": b"\x00\xff"}
    assert again.target_files() == {"fleet/director.json": b"{}"}


def test_a_pack_is_a_head_and_documents() -> None:
    pack = TrustPack.of({"1.root.json": b"root", "timestamp.json": b"head"}, {"fleet/director.json": b"{}"})
    assert pack.head == b"head"
    assert pack.documents() == {hashlib.sha256(data).hexdigest(): data for data in (b"root", b"{}")}


def test_only_a_commit_is_a_success() -> None:
    seen = {state: deployment_state(state, "") for state in Install}
    assert [state for state, outcome in seen.items() if outcome.is_success] == [Install.COMMITTED]
    assert all(outcome.is_final == state.is_final for state, outcome in seen.items() if state is not Install.IDLE)
    assert deployment_state(Install.REJECTED, "bundle.incompatible") is Deployment.INCOMPATIBLE


def test_every_error_has_its_own_code_and_crosses_a_border() -> None:
    tree = every_error()
    assert len({cls.code for cls in tree.values()}) == len(tree)
    for code, cls in tree.items():
        again = from_dict(cls("what", why="why", hint="do").as_dict())
        assert (type(again), again.code, again.what, again.why, again.hint) == (cls, code, "what", "why", "do")


@pytest.mark.parametrize(
    "signal",
    [
        {"name": "a", "kind": "ordinal", "edges": [1.0, 1.0], "counts": [1, 1, 1]},
        {"name": "a", "kind": "ordinal", "edges": [1.0], "counts": [1, 1, 1]},
        {"name": "a", "kind": "categorical", "counts": [1, -1]},
    ],
)
def test_a_profile_that_does_not_hold_together_is_refused(signal: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a"):
        Signal.model_validate(signal)


def test_a_profile_comes_back_and_needs_enough_reference() -> None:
    signal = Signal(name="pred", kind="categorical", counts=(100, 100))
    profile = Profile(n_ref=200, signals=(signal,))
    assert Profile.decode(profile.encode()) == profile
    assert 0 < profile.warning_score < profile.alarm_score
    with pytest.raises(ValueError, match="n_ref"):
        Profile(n_ref=199, signals=(signal,))
    with pytest.raises(MalformedBundle):
        Profile.decode(b"{}")
