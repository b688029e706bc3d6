"""What follows from a broker's limits and behaviour. Pure."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from dsops_controller.server.limits import Level, Limits, Measured, judge, limits_of

GOOD = Measured(round_trips_s=(0.001, 0.002, 0.5), is_near=True, keeps=True, deletes=True, expires=True)
MOSQUITTO = Limits(max_packet_bytes=131_072, receive_maximum=20, topic_aliases=10)


def bad(limits: Limits = MOSQUITTO, measured: Measured = GOOD) -> dict[str, Level]:
    return {finding.name: finding.level for finding in judge(limits, measured) if finding.level is not Level.OK}


def test_what_the_broker_leaves_out_has_the_standards_default() -> None:
    assert limits_of(None) == limits_of(SimpleNamespace()) == Limits()
    said = SimpleNamespace(
        MaximumPacketSize=20_000, ReceiveMaximum=5, RetainAvailable=0, MaximumQoS=1, TopicAliasMaximum=3,
        WildcardSubscriptionAvailable=0, SharedSubscriptionAvailable=0, SessionExpiryInterval=60, ServerKeepAlive=9,
    )  # fmt: skip
    assert limits_of(said) == Limits(20_000, 5, False, 1, 3, False, False, 60, 9)


def test_a_sound_broker_has_no_finding_that_asks_for_anything() -> None:
    assert bad() == bad(Limits()) == {}
    assert all(finding.text and not finding.advice for finding in judge(MOSQUITTO, GOOD))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"max_qos": 0}, {"qos": Level.ERROR}),
        ({"max_packet_bytes": 20_000}, {"packets": Level.ERROR}),
        ({"max_packet_bytes": 40_000}, {"packets": Level.WARNING}),
        ({"retain": False}, {"retain": Level.ERROR}),
        ({"receive_maximum": 9}, {"window": Level.WARNING}),
        ({"wildcards": False}, {"wildcards": Level.ERROR}),
        ({"session_s": 28_800}, {"session": Level.WARNING}),
        ({"shared": False, "topic_aliases": 0, "keepalive_s": 60}, {}),
    ],
)
def test_each_limit_that_hurts_is_found_with_what_to_do(changes: dict[str, int], found: dict[str, Level]) -> None:
    limits = replace(MOSQUITTO, **changes)  # type: ignore[arg-type]
    assert bad(limits) == found
    assert all(finding.advice for finding in judge(limits, GOOD) if finding.level is not Level.OK)


def test_chunks_are_left_with_a_broker_only_if_it_can_hold_them() -> None:
    assert MOSQUITTO.holds_chunks
    for changes in ({"retain": False}, {"max_packet_bytes": 32_768}, {"max_qos": 0}):
        assert not replace(MOSQUITTO, **changes).holds_chunks  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"round_trips_s": (0.04, 0.05, 0.001)}, {"delay": Level.WARNING}),
        ({"round_trips_s": (0.04, 0.05, 0.001), "is_near": False}, {}),
        ({"keeps": False, "deletes": False}, {"trial": Level.ERROR}),
        ({"deletes": False}, {"trial": Level.WARNING}),
        ({"expires": False}, {"expiry": Level.WARNING}),
        ({"refusal": "Not authorized"}, {"trial": Level.WARNING}),
    ],
)
def test_each_behaviour_that_hurts_is_found(changes: dict[str, object], found: dict[str, Level]) -> None:
    assert bad(measured=replace(GOOD, **changes)) == found  # type: ignore[arg-type]
