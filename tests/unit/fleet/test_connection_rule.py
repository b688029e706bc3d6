"""Which births and deaths count, as a pure rule."""

from hypothesis import given
from hypothesis import strategies as st

from dsops.messages import Connection
from dsops_controller.fleet.registry import ConnectionFacts, is_news

boots = st.sampled_from(["a", "b"])
numbers = st.integers(0, 5)
messages = st.builds(Connection, device=st.just("cam-1"), online=st.booleans(), boot_id=boots, conn_seq=numbers)


def step(stored: ConnectionFacts, message: Connection) -> ConnectionFacts:
    if not is_news(stored, message):
        return stored
    if message.online:
        return ConnectionFacts(online=True, boot_id=message.boot_id, conn_seq=message.conn_seq)
    return ConnectionFacts(online=False, boot_id=stored.boot_id, conn_seq=stored.conn_seq)


def after(sent: list[Connection]) -> ConnectionFacts:
    stored = ConnectionFacts(online=False, boot_id=None, conn_seq=0)
    for message in sent:
        stored = step(stored, message)
    return stored


def birth(boot: str, number: int) -> Connection:
    return Connection(device="cam-1", online=True, boot_id=boot, conn_seq=number)


def death(boot: str, number: int) -> Connection:
    return Connection(device="cam-1", online=False, boot_id=boot, conn_seq=number)


def test_a_late_will_of_an_older_connection_is_ignored() -> None:
    assert after([birth("a", 1), birth("a", 2), death("a", 1)]).online is True
    assert after([birth("a", 1), birth("b", 2), death("a", 2)]).online is True
    assert after([birth("a", 1), birth("b", 2), death("b", 2)]).online is False


def test_a_repeated_birth_does_not_revive_a_dead_connection() -> None:
    assert after([birth("a", 1), death("a", 1), birth("a", 1)]).online is False
    assert after([birth("a", 1), death("a", 1), birth("a", 2)]).online is True


def test_a_first_birth_counts_whatever_its_number() -> None:
    assert after([birth("a", 0)]) == ConnectionFacts(online=True, boot_id="a", conn_seq=0)
    assert after([death("a", 0)]) == ConnectionFacts(online=False, boot_id=None, conn_seq=0)


@given(st.lists(messages))
def test_the_number_never_falls_and_every_message_can_be_repeated(sent: list[Connection]) -> None:
    stored = ConnectionFacts(online=False, boot_id=None, conn_seq=0)
    for message in sent:
        following = step(stored, message)
        assert following.conn_seq >= stored.conn_seq
        assert step(following, message) == following
        stored = following


@given(st.lists(messages), st.integers(6, 9))
def test_the_newest_birth_decides(sent: list[Connection], number: int) -> None:
    assert after([*sent, birth("c", number), *sent]) == ConnectionFacts(online=True, boot_id="c", conn_seq=number)
